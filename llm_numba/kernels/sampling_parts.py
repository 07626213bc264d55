"""Parts of a row of logits: who reads what, and what each part reports.

A row of a vocabulary is long and a batch has few rows, so a row is cut into *shares* of 2048
logits, a warp each, and 8 of them are a block's. How many there are depends on V alone. A warp
reads 512 logits at a time, all loads under way at once, and holds them in registers:

::

    row      | share 0: 2048 logits | share 1 | ... | share 7 | share 8 | ...
               block 0, warp 0        warp 1          warp 7    block 1, warp 0
    share    | 512 | 512 | 512 | 512 |
    fp32       t0 t0 t0 t0 t1 t1 t1 t1 ... t31 t0 t0 t0 t0 t1 ...       4 packets of 16 bytes each
"""

from typing import Any

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import FULL_WARP, WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.sampling_numbers import (
    LEAST_KEY,
    column_of_ranked,
    has_finite_maximum,
    key_of,
    key_of_ranked,
    ranked,
    value_of,
    weight_of,
)
from llm_numba.kernels.softmax_logits import reference_point
from llm_numba.runtime import storage_dtype

THREADS = 256
WARPS = THREADS // WARP
ITEMS = 16  # that a thread holds at a time
ROUNDS = 4
STRIDE = WARP * ITEMS
SHARE = STRIDE * ROUNDS
MAX_SHARES = 2048
LEAST_RANK = -(1 << 63)

_NOWHERE = 0x7FFFFFFF


def shares_of(vocabulary: int) -> int:
    """Return how many shares a row has.

    Parameters
    ----------
    vocabulary : int
    """
    return -(-vocabulary // SHARE)


def runs_of(logits: Any) -> int:
    """Return how many runs all shares of a row have together.

    Parameters
    ----------
    logits : array [B, V]
    """
    return shares_of(logits.shape[1]) * (SHARE // (WARP * ptx.VECTOR[storage_dtype(logits)]))


def grid_of(logits: Any) -> tuple[int, int]:
    """Return the grid of kernels that read all logits: blocks of a row, rows.

    Parameters
    ----------
    logits : array [B, V]
    """
    return -(-shares_of(logits.shape[1]) // WARPS), len(logits)


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


def holders(load):
    """Make the functions that hold logits in registers by one way of loading."""

    @cuda.jit(device=True)
    def hold(logits, row, first, held):
        """Load a thread's logits of the 512 from column `first` on; -inf beyond the row."""
        width = ptx.items16(logits)
        for k in range(ITEMS // width):
            column = first + k * WARP * width + (cuda.threadIdx.x & 31) * width
            if column < logits.shape[1]:
                values = load(logits, row, column)
                for e in range(width):
                    held[k * width + e] = values[e]
            else:
                for e in range(width):
                    held[k * width + e] = MINUS_INFINITY

    @cuda.jit(device=True)
    def hold_live(logits, row, first, live, held):
        """Load likewise, -inf for runs that are not `live`, a lane each; tell if any is."""
        width, any_live = ptx.items16(logits), False
        runs = ITEMS // width
        for k in range(runs):
            is_live = cuda.shfl_sync(FULL_WARP, live, first % SHARE // STRIDE * runs + k) > 0
            any_live |= is_live
            column = column_of_run(logits, first, k) + (cuda.threadIdx.x & 31) * width
            if is_live and column < logits.shape[1]:
                values = load(logits, row, column)
                for e in range(width):
                    held[k * width + e] = values[e]
            else:
                for e in range(width):
                    held[k * width + e] = MINUS_INFINITY
        return any_live

    return hold, hold_live


@cuda.jit(device=True)
def column_of_run(logits, first, k):
    """Return where the k-th run of the 512 logits from column `first` on begins."""
    return first + k * WARP * ptx.items16(logits)


@cuda.jit(device=True)
def runs_of_share(logits):
    """Return how many runs a share has: what a warp loads at once, 16 bytes a lane, is one."""
    return SHARE // (WARP * ptx.items16(logits))


@cuda.jit(device=True)
def live_runs(logits, tops, row, share, weigher, above):
    """Return whether a lane's run of a share has a token as heavy, as an integer."""
    lane, runs = cuda.threadIdx.x & 31, runs_of_share(logits)
    if lane >= runs:
        return int32(0)
    weight = weight_of(value_of(tops[row, share * runs + lane]), weigher)
    return int32(weight >= weigher[2] and weight > above)


@cuda.jit(device=True)
def clear_row(row, counts, masses, counters):
    """Set what is added to for a row to zero."""
    t = cuda.threadIdx.x
    for b in range(t, counts.shape[1], THREADS):
        counts[row, b] = 0
        masses[row, b] = 0
    if t < counters.shape[1]:
        counters[row, t] = 0


@cuda.jit(device=True)
def column_of_item(logits, first, item):
    """Return which column a thread's held logit is."""
    width = ptx.items16(logits)
    return first + item // width * WARP * width + (cuda.threadIdx.x & 31) * width + item % width


@cuda.jit(device=True)
def share_of_thread():
    """Return which share of its row a thread's warp has."""
    return cuda.blockIdx.x * WARPS + (cuda.threadIdx.x >> 5)


@cuda.jit(device=True)
def max_over_warp(value):
    """Find the largest int64 or int32 of a warp, for each lane."""
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def max_over_block(value, partial):
    """Find the largest integer of a block, for each thread; `partial` is shared [MAX_WARPS]."""
    value = max_over_warp(value)
    lane = cuda.threadIdx.x & 31
    cuda.syncthreads()  # `partial` may still be read from the call before
    if lane == 0:
        partial[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    return max_over_warp(partial[lane if lane < cuda.blockDim.x >> 5 else 0])


@cuda.jit(device=True)
def sum_over_warp(value):
    """Add the int64 of a warp, for each lane."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(FULL_WARP, value, distance)
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
    """Return a row's largest logit, ranked with the run it is in, for each lane of a warp."""
    rank = int64(LEAST_RANK)
    for share in range(cuda.threadIdx.x & 31, best.shape[1], WARP):
        rank = max(rank, best[row, share])
    return max_over_warp(rank)


@cuda.jit(device=True)
def first_of_run(logits, row, rank):
    """Return the first column in a ranked run that has its key, for each lane of a warp."""
    width, key, found = ptx.items16(logits), key_of_ranked(rank), int32(_NOWHERE)
    begin = column_of_ranked(rank) + (cuda.threadIdx.x & 31) * width
    for e in range(width - 1, -1, -1):
        column = begin + e
        if column < logits.shape[1] and key_of(ptx.to_float(logits[row, column])) == key:
            found = int32(column)
    return -1 - max_over_warp(int32(-1 - found))


@cuda.jit(device=True)
def is_last_of_row(counters, row, flag):
    """Tell whether all other blocks of the row have come here; what they wrote can be read then.

    The barrier hands a block's writes to its first thread, the fence makes them visible to the
    GPU before the counter moves, and the second fence keeps reads from being served from before.
    """
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.threadfence()
        flag[0] = cuda.atomic.add(counters, (row, 0), int32(1))
        cuda.threadfence()
    cuda.syncthreads()
    return flag[0] == cuda.gridDim.x - 1


def share_reader(load):
    """Make the function of the first read by one way of loading."""
    hold, _ = holders(load)

    @cuda.jit(device=True)
    def read_share(logits, row, share, octaves, own):
        """Find the largest logit of a share and of each run; weigh it all, if `octaves` is above 0.

        A share is weighed relative to its own largest logit so far: that of the row is not known.

        Returns
        -------
        rank : int64
            Of the largest: its key, and where its run begins.
        top : int32
            The largest key of the lane's run.
        weight : float32
            Of the lane's logits, if they are weighed.
        above : int32
            How many of them are larger than `own`, if they are weighed.
        """
        held = cuda.local.array(ITEMS, float32)
        lane, runs = cuda.threadIdx.x & 31, ITEMS // ptx.items16(logits)
        first = int32(share * SHARE)
        largest, place, top = int32(LEAST_KEY), first, int32(LEAST_KEY)
        base, weight, above = float32(0), float32(0), int32(0)
        for r in range(ROUNDS):
            hold(logits, row, first, held)
            for k in range(runs):
                largest_of_lane = MINUS_INFINITY
                for i in range(k * ITEMS // runs, (k + 1) * ITEMS // runs):
                    largest_of_lane = ptx.maximum(largest_of_lane, held[i])
                key = max_over_warp(key_of(largest_of_lane))
                top = key if lane == r * runs + k else top
                place = int32(column_of_run(logits, first, k)) if key > largest else place
                largest = max(largest, key)
            if octaves > float32(0):
                before, base = base, reference_point(value_of(largest))
                if weight > float32(0):
                    weight *= ptx.exp2((before - base) * octaves)
                for i in range(ITEMS):
                    weight += ptx.exp2((held[i] - base) * octaves)
                    above = int32(above + (held[i] > own))
            first = int32(first + STRIDE)
        return ranked(largest, place), top, weight, above

    return read_share


def bests(load):
    """Make the kernel of the first read by one way of loading."""
    read_share = share_reader(load)

    @cuda.jit
    def share_best(logits, best, tops, counts, masses, counters):
        """Find the largest logit of each share and run.

        What later kernels add to is set to zero on the way.
        """
        row, lane, share = cuda.blockIdx.y, cuda.threadIdx.x & 31, share_of_thread()
        if cuda.blockIdx.x == 0:
            clear_row(row, counts, masses, counters)
        if share >= best.shape[1]:
            return
        rank, top, _, _ = read_share(logits, row, share, float32(0), float32(0))
        if lane == 0:
            best[row, share] = rank
        runs = runs_of_share(logits)
        if tops.shape[1] > 0 and lane < runs:
            tops[row, share * runs + lane] = top

    return share_best


@cuda.jit
def row_argmax(logits, best, out):
    """Choose among the shares of a row; a warp a row, several of them a block."""
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < best.shape[0]:
        rank = row_best(best, row)
        token = first_of_run(logits, row, rank)
        if cuda.threadIdx.x == 0:
            out[row] = token if has_finite_maximum(rank) else -1
