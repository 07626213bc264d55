"""Parts of a row of logits: who reads what, and what each part reports.

A row of a vocabulary is long and a batch has few rows, so several blocks share a row. The number
of parts depends on V alone. A thread holds 32 logits in registers, all loads under way at once:

::

    row         | part 0: 8192 logits | part 1 | ... | part P-1 |      a block of 256 threads each
    fp32        t0 t0 t0 t0 t1 t1 t1 t1 ... t255 t255 t255 t255 t0 ... 8 packets of 16 bytes
"""

from typing import Any

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import FULL_WARP, WARP
from llm_numba.kernels.rows import MAX_WARPS, MINUS_INFINITY
from llm_numba.kernels.sampling_numbers import (
    NAN_KEY,
    column_of_ranked,
    key_of,
    ranked,
    value_of,
)
from llm_numba.runtime import storage_dtype

THREADS = 256
ITEMS = 32
PART = THREADS * ITEMS

LEAST_RANK = -(1 << 63)
_INFINITY = float32(float("inf"))


def parts_of(vocabulary: int) -> int:
    """Return how many parts a row has.

    Parameters
    ----------
    vocabulary : int
    """
    return -(-vocabulary // PART)


def rows_are_packets(logits: Any) -> bool:
    """Tell whether all rows begin at a multiple of 16 bytes and end at one.

    Parameters
    ----------
    logits : array [B, V]
    """
    whole = logits.shape[1] % ptx.VECTOR[storage_dtype(logits)] == 0
    return whole and ptx.is_aligned16(logits)


@cuda.jit(device=True)
def load_packet(logits, row, column):
    """Load 16 bytes of a row, where rows are whole packets and the array is aligned."""
    return ptx.load16(logits, row * logits.shape[1] + column)


@cuda.jit(device=True)
def gather_packet(logits, row, column):
    """Load as many logits one by one, for rows that begin anywhere; -inf beyond the row."""
    values = ptx.zeros16(logits)
    for e in range(ptx.items16(logits)):
        value = MINUS_INFINITY
        if column + e < logits.shape[1]:
            value = ptx.to_float(logits[row, column + e])
        values = ptx.with_item(values, e, value)
    return values


def holder(load):
    """Make the function that holds a part in registers by one way of loading."""

    @cuda.jit(device=True)
    def hold_part(logits, row, part, held):
        """Load the part of a thread; -inf beyond the row."""
        width = ptx.items16(logits)
        for k in range(ITEMS // width):
            column = part * PART + (k * THREADS + cuda.threadIdx.x) * width
            if column < logits.shape[1]:
                values = load(logits, row, column)
                for e in range(width):
                    held[k * width + e] = values[e]
            else:
                for e in range(width):
                    held[k * width + e] = MINUS_INFINITY

    return hold_part


@cuda.jit(device=True)
def column_of_item(logits, part, item):
    """Return which column a thread's held logit is."""
    width = ptx.items16(logits)
    packet = item // width * THREADS + cuda.threadIdx.x
    return part * PART + packet * width + item % width


@cuda.jit(device=True)
def max_over_block(value, partial):
    """Find the largest int64 of a block, for each thread; `partial` is shared [MAX_WARPS]."""
    value = max_over_warp(value)
    lane = cuda.threadIdx.x & 31
    cuda.syncthreads()  # `partial` may still be read from the call before
    if lane == 0:
        partial[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    return max_over_warp(partial[lane if lane < cuda.blockDim.x >> 5 else 0])


@cuda.jit(device=True)
def max_over_warp(value):
    """Find the largest int64 of a warp, for each lane."""
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def sum_over_block(value, partial):
    """Add the int64 of a block, for each thread; see :func:`max_over_block`."""
    value = sum_over_warp(value)
    lane = cuda.threadIdx.x & 31
    cuda.syncthreads()
    if lane == 0:
        partial[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    return sum_over_warp(partial[lane] if lane < cuda.blockDim.x >> 5 else int64(0))


@cuda.jit(device=True)
def sum_over_warp(value):
    """Add the int64 of a warp, for each lane."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(FULL_WARP, value, distance)
    return value


@cuda.jit(device=True)
def sum_before(value, partial):
    """Add the int64 of all threads before this one in the block."""
    t = cuda.threadIdx.x
    lane, warp = t & 31, t >> 5
    through = value
    for distance in (1, 2, 4, 8, 16):
        below = cuda.shfl_up_sync(FULL_WARP, through, distance)
        if lane >= distance:
            through += below
    cuda.syncthreads()
    if lane == WARP - 1:
        partial[warp] = through
    cuda.syncthreads()
    before = through - value
    for w in range(warp):
        before += partial[w]
    return before


@cuda.jit(device=True)
def row_extremes(best, least, row):
    """Return a row's first largest logit, ranked, and its smallest finite one; for each lane."""
    lane = cuda.threadIdx.x & 31
    rank, smallest = int64(LEAST_RANK), _INFINITY
    for part in range(lane, best.shape[1], WARP):
        rank = max(rank, best[row, part])
        smallest = min(smallest, least[row, part])
    for distance in (16, 8, 4, 2, 1):
        smallest = min(smallest, cuda.shfl_xor_sync(FULL_WARP, smallest, distance))
    return max_over_warp(rank), smallest


def extremes(load):
    """Make the kernel of the first read by one way of loading."""
    hold_part = holder(load)

    @cuda.jit
    def part_extremes(logits, best, least, counts, masses):
        """Find the largest logit of a part, its first column, and the smallest finite one.

        The histogram of the row is set to zero on the way; the next kernel adds to it.
        """
        maxima = cuda.shared.array(MAX_WARPS, int64)
        held = cuda.local.array(ITEMS, float32)
        parts = best.shape[1]
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        t = cuda.threadIdx.x
        hold_part(logits, row, part, held)
        for b in range(part * THREADS + t, counts.shape[1], parts * THREADS):
            counts[row, b] = 0
            masses[row, b] = 0
        largest, smallest, has_nan = MINUS_INFINITY, _INFINITY, False
        for i in range(ITEMS):
            largest = max(largest, held[i])
            smallest = min(smallest, held[i] if held[i] > MINUS_INFINITY else _INFINITY)
            has_nan |= held[i] != held[i]
        item = 0
        for i in range(ITEMS - 1, -1, -1):
            is_first = held[i] != held[i] if has_nan else held[i] == largest
            item = i if is_first else item
        key = int32(NAN_KEY) if has_nan else key_of(largest)
        rank = max_over_block(ranked(key, column_of_item(logits, part, item)), maxima)
        lowest = -max_over_block(-int64(key_of(smallest)), maxima)
        if t == 0:
            best[row, part] = rank
            least[row, part] = value_of(lowest)

    return part_extremes


@cuda.jit
def row_argmax(best, out):
    """Choose among the parts of a row; a warp a row, several of them a block."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < best.shape[0]:
        rank = int64(LEAST_RANK)
        for part in range(cuda.threadIdx.x, best.shape[1], WARP):
            rank = max(rank, best[row, part])
        rank = max_over_warp(rank)
        if cuda.threadIdx.x == 0:
            out[row] = column_of_ranked(rank)
