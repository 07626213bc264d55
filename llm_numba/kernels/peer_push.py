"""The kernels of :mod:`llm_numba.kernels.peer` in which ranks push what they have to the others.

How a packet travels, and when its place may be written again, says
:mod:`llm_numba.kernels.peer_lines`. A launch is one call. Both kernels may begin before the one
before them has ended, and let the next one begin at once: they have little to do but wait, and a
product that comes next may load its weights meanwhile.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_added import (
    EARLY,
    finisher,
    load_packets,
    store_packets,
    sum_squares,
)
from llm_numba.kernels.packets import widened
from llm_numba.kernels.peer_lines import LINES, next_call, pusher, taker
from llm_numba.kernels.rows import LAUNCH_BOUNDS, MAX_WARPS, sum_over_row
from llm_numba.runtime import starts_early

# Packets of a row that a thread holds until the sum of squares is known: as in the kernel that adds
# and normalises on one GPU.
HELD = EARLY
# Of a block of the other kernel.
MOST_THREADS = 512


@functools.cache
def pushed(ranks: int, held: int) -> Any:
    """Make the all-reduce in which each rank sends all that it has to all others.

    Parameters
    ----------
    ranks : int
    held : int
        Packets of a thread, at most.

    Returns
    -------
    dispatcher
        ``pushed(x, lines, calls, addresses, rank, room, share)``, with `share` packets a team.
    """
    push, take, words = pusher(ranks, held), taker(ranks, held), 4 * held

    @starts_early
    @cuda.jit(launch_bounds=(MOST_THREADS, 1))
    def pushed(x, lines, calls, addresses, rank, room, share):
        """Load a thread's packets, push them, wait for those of the others, add, store."""
        mine, places = cuda.local.array(words, uint32), cuda.local.array(ranks, int64)
        ptx.release_next_kernel()
        for r in range(ranks):
            places[r] = addresses[LINES, r]
        ptx.await_previous_kernel()
        first = int32(cuda.blockIdx.x * share)
        packets = int32(min(share, x.size // ptx.items16(x) - first))
        load_packets(x, first, packets, mine)
        number = next_call(calls)
        push(lines, places, calls, rank, room, number, packets, mine)
        take(0, (x, lines, calls, rank, room, number, packets, mine))
        store_packets(x, first, packets, mine)

    return pushed


@cuda.jit(device=True)
def _add_loaded(like, loaded, held):
    """Add what a thread has loaded to what it holds, and round as memory would."""
    for k in range(len(held) // 4):
        values, added = widened(like, held, k), widened(like, loaded, k)
        for e in range(ptx.items16(like)):
            values = ptx.with_item(values, e, values[e] + added[e])
        rounded = ptx.round_raw16(like, values)
        for w in range(4):
            held[4 * k + w] = rounded[w]


def most_row_threads(ranks: int) -> int:
    """Return how many threads may share a row: as on one GPU, or what registers leave.

    Parameters
    ----------
    ranks : int
    """
    return LAUNCH_BOUNDS[HELD][0] if ranks <= 4 else 256


@functools.cache
def pushed_norm(ranks: int) -> Any:
    """Make the all-reduce of rows with residual addition and RMSNorm behind it.

    A block has a row. What follows the sum is done with the threads, and mostly by the functions,
    of :mod:`llm_numba.kernels.layernorm_added`: so each bit is that of two kernels.

    Parameters
    ----------
    ranks : int

    Returns
    -------
    dispatcher
        ``pushed_norm(x, residual, weight, eps, total, out, lines, calls, addresses, rank, room)``;
        matrices with their axes joined.
    """
    push, take = pusher(ranks, HELD), taker(ranks, HELD)
    words, finish_all = 4 * HELD, finisher(HELD, None, False)

    @starts_early
    @cuda.jit(launch_bounds=(most_row_threads(ranks), 1))
    def pushed_norm(
        x, residual, weight, eps, total, out, lines, calls, addresses, rank, room
    ):  # fmt: skip
        """Load what is there already while the others' packets travel; add, normalise."""
        partial, places = cuda.shared.array(MAX_WARPS, float32), cuda.local.array(ranks, int64)
        held, added = cuda.local.array(words, uint32), cuda.local.array(words, uint32)
        scales = cuda.local.array(words, uint32)
        ptx.release_next_kernel()
        length = weight.size
        packets, of_one = int32(length // ptx.items16(x)), float32(1) / float32(length)
        for r in range(ranks):
            places[r] = addresses[LINES, r]
        load_packets(weight, 0, packets, scales)
        ptx.await_previous_kernel()
        begin = int32(cuda.blockIdx.x * packets)
        load_packets(x, begin, packets, held)
        load_packets(residual, begin, packets, added)
        number = next_call(calls)
        push(lines, places, calls, rank, room, number, packets, held)
        take(0, (x, lines, calls, rank, room, number, packets, held))
        _add_loaded(x, added, held)
        store_packets(total, begin, packets, held)
        mean = float32(0)  # RMSNorm takes none, and has no bias: nobody looks at what stands for it
        squares = sum_over_row(sum_squares(x, packets, mean, held), partial)
        inverse = libdevice.rsqrtf(squares * of_one + eps)
        task = (x, weight, weight, out, begin, packets, held, scales, scales, mean, inverse)
        finish_all(0, task)

    return pushed_norm
