"""Parts of a row of logits: who reads what, and what each part reports.

A row of a vocabulary is long and a batch has few rows, so several blocks share a row. The number
of parts depends on V alone. A thread holds 16 logits in registers, all loads under way at once:

::

    row         | part 0: 4096 logits | part 1 | ... | part P-1 |      a block of 256 threads each
    fp32        t0 t0 t0 t0 t1 t1 t1 t1 ... t255 t255 t255 t255 t0 ... 4 packets of 16 bytes
"""

from typing import Any

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import FULL_WARP, WARP, warp_max
from llm_numba.kernels.rows import MAX_WARPS, MINUS_INFINITY
from llm_numba.kernels.sampling_numbers import (
    column_of_ranked,
    key_of,
    ranked,
)
from llm_numba.runtime import storage_dtype

THREADS = 256
WARPS = THREADS // WARP
ITEMS = 16
PART = THREADS * ITEMS

MAX_PARTS = 1024
LEAST_RANK = -(1 << 63)


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
def row_best(best, row):
    """Return a row's first largest logit, ranked, for each lane of a warp."""
    rank = int64(LEAST_RANK)
    for part in range(cuda.threadIdx.x & 31, best.shape[1], WARP):
        rank = max(rank, best[row, part])
    return max_over_warp(rank)


@cuda.jit(device=True)
def is_last_of_row(counters, row, stage, parts, flag):
    """Tell whether all other blocks of the row have come here; what they wrote can be read then.

    The barrier hands a block's writes to its first thread, the fence makes them visible to the
    GPU before the counter moves, and the second fence keeps reads from being served from before.
    """
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.threadfence()
        flag[0] = cuda.atomic.add(counters, (row, stage), int32(1))
        cuda.threadfence()
    cuda.syncthreads()
    return flag[0] == parts - 1


def bests(load):
    """Make the kernel of the first read by one way of loading."""
    hold_part = holder(load)

    @cuda.jit
    def part_best(logits, best, tops, counts, masses, counters):
        """Find the largest logit of a part and its first column, and that of each warp's share.

        What later kernels add to is set to zero on the way.
        """
        maxima = cuda.shared.array(MAX_WARPS, int64)
        held = cuda.local.array(ITEMS, float32)
        parts, t = best.shape[1], cuda.threadIdx.x
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        hold_part(logits, row, part, held)
        for b in range(part * THREADS + t, counts.shape[1], parts * THREADS):
            counts[row, b] = 0
            masses[row, b] = 0
        if part == 0 and t < counters.shape[1]:
            counters[row, t] = 0
        largest, has_nan = MINUS_INFINITY, False
        for i in range(ITEMS):
            largest = max(largest, held[i])
            has_nan |= held[i] != held[i]
        top = warp_max(largest)
        if t % WARP == 0 and tops.shape[1] > 0:
            tops[row, part * WARPS + t // WARP] = top
        rank = int64(LEAST_RANK)
        if has_nan or largest == top:  # few threads go on: that of the maximum, as a rule
            for i in range(ITEMS):
                if held[i] == top or held[i] != held[i]:
                    other = ranked(key_of(held[i]), column_of_item(logits, part, i))
                    rank = max(rank, other)
        rank = max_over_block(rank, maxima)
        if t == 0:
            best[row, part] = rank

    return part_best


@cuda.jit
def row_argmax(best, out):
    """Choose among the parts of a row; a warp a row, several of them a block."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < best.shape[0]:
        rank = row_best(best, row)
        if cuda.threadIdx.x == 0:
            out[row] = column_of_ranked(rank)
