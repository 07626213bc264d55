r"""A row of a matrix and the threads that share it: what softmax and the norms have in common.

A row belongs to ``blockDim.x`` threads, a multiple of 32. Short rows get one warp, and a block
takes several of them along y; long rows get a block of their own:

::

    packets of 16 bytes    |  0 |  1 | ... | 31 | 32 | 33 | ... | 63 | 64 | ...
    thread, 32 to a row      t0   t1   ...  t31   t0   t1   ...  t31   t0
    packet of the thread      0    0    ...   0    1    1   ...    1    2

Neighbours load neighbouring packets, so a warp's request is 512 bytes without a gap. A thread
has all its packets under way at once, and then holds them in registers until the row's maximum,
sum or mean is known. With four packets a thread, 64 KiB of row fit into a block of 1024 threads.

Source of the reduction in two levels: Luitjens, "Faster Parallel Reductions on Kepler", 2014.
"""

import math

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import WARP, warp_max, warp_sum

# Numbers in a packet of 16 bytes, at most, and the packets that a thread holds, at most.
PACKET = 8
MOST_PACKETS = 4

MAX_THREADS = 1024
MAX_WARPS = MAX_THREADS // WARP
MINUS_INFINITY = float32(-math.inf)

_SMALL_BLOCK = 128

# By the packets that a thread holds: most threads of a block, and blocks that an SM shall have room
# for. The compiler limits registers accordingly: to 32, 40 and 64, and nothing spills.
LAUNCH_BOUNDS = {1: (MAX_THREADS, 2), 2: (512, 3), MOST_PACKETS: (MAX_THREADS, 1)}


@cuda.jit(device=True)
def max_over_row(value, partial):
    """Find the largest value among the threads of a row, for each of them; NaN if there is one.

    Parameters
    ----------
    value : float32
    partial : shared float32 [MAX_WARPS]
        For this call alone: slow warps still read it when fast ones return.
    """
    value = warp_max(value)
    if cuda.blockDim.x == WARP:  # the warp is the row, and the others of its block have theirs
        return value
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        partial[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    # Each warp does this anew. One warp for all would have to send the result back: a barrier more.
    return warp_max(partial[lane] if lane < cuda.blockDim.x >> 5 else MINUS_INFINITY)


@cuda.jit(device=True)
def sum_over_row(value, partial):
    """Add the values of the threads of a row, for each of them; see :func:`max_over_row`."""
    value = warp_sum(value)
    if cuda.blockDim.x == WARP:
        return value
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        partial[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    return warp_sum(partial[lane] if lane < cuda.blockDim.x >> 5 else float32(0))


@cuda.jit(device=True)
def hold_words(x, begin, packets, held):
    """Load the packets of a thread, those of the row that it has room for, as they are in memory.

    Nothing is computed or stored between the loads, so that they are all under way at once.

    Parameters
    ----------
    x : array
    begin : int
        Element where packet 0 begins.
    packets : int
        Of the row.
    held : local uint32 [4 * k]
        Room for k packets; :func:`llm_numba.kernels.packets.widened` makes numbers of them.
    """
    width = ptx.items16(x)
    for k in range(len(held) // 4):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if packet < packets:
            words = ptx.load_raw16(x, begin + packet * width)
            for w in range(4):
                held[4 * k + w] = words[w]


def holds(row_packets: int, held_packets: int) -> bool:
    """Tell whether a block has room for a row if each thread holds so many packets."""
    return row_packets <= held_packets * LAUNCH_BOUNDS[held_packets][0]


def row_launch(rows: int, pieces: int, held: int) -> tuple[tuple[int], tuple[int, int]]:
    """Choose grid and block for rows that threads hold.

    Parameters
    ----------
    rows : int
    pieces : int
        Of a row: packets, or numbers.
    held : int
        Pieces that a thread has room for.

    Returns
    -------
    grid : tuple of int
    block : tuple of int
        Threads of a row, and rows of a block: as few threads as hold the row, up to 1024.
    """
    warps = max(1, math.ceil(pieces / (WARP * held)))
    threads = min(WARP * warps, MAX_THREADS)
    rows_of_block = _SMALL_BLOCK // WARP if threads == WARP else 1
    return (math.ceil(rows / rows_of_block),), (threads, rows_of_block)
