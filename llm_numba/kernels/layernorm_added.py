"""The last step of the norms' ladders with a residual: 16 bytes at a time, each number read once.

Four numbers cross memory for each result, where without a residual there are two, and a kernel has
the time of 70 instructions. What counts then is how long a block lives before the next one may
load: weights that are asked for when the sums are known come a trip to L2 too late. So a thread
holds its packets as they are in memory, in half the registers, and has room for those of weight
and bias from the beginning:

::

    load x, r      add, round, store t      load weight, bias      sum   sum      normalise, store y
                                            '---- on their way ----------'

With two packets of each, that is 40 registers, and an SM of an H100 has room for three blocks of
512 threads.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.layernorm_vectorised import ACTIVATED
from llm_numba.kernels.packets import widened
from llm_numba.kernels.rows import LAUNCH_BOUNDS, MAX_WARPS, PACKET, sum_over_row
from llm_numba.kernels.unrolled import unrolled

# A thread that holds so many packets, and no more, has room for those of weight and bias as well.
EARLY = 2


@cuda.jit(device=True)
def place(k, packets):
    """Return packet k of a thread; if the row has no such, the thread's first, or the row's last.

    So nobody asks before a load, which would wait for the load before it. Nor does anybody read
    what another warp may be writing to, where a result replaces an operand.

    Parameters
    ----------
    k : int
    packets : int
        Of the row.
    """
    packet = int32(cuda.threadIdx.x + k * cuda.blockDim.x)
    return packet if packet < packets else int32(min(cuda.threadIdx.x, packets - 1))


@cuda.jit(device=True)
def load_packets(array, begin, packets, words):
    """Load the packets of a thread as they are in memory.

    Parameters
    ----------
    array : array
    begin : int
        Of the row's packets, the first.
    packets : int
        Of the row.
    words : local uint32 [4 k]
        Room for k packets.
    """
    width = ptx.items16(array)
    for k in range(len(words) // 4):
        loaded = ptx.load_raw16(array, (begin + place(k, packets)) * width)
        for w in range(4):
            words[4 * k + w] = loaded[w]


@cuda.jit(device=True)
def store_packets(array, begin, packets, words):
    """Store the packets of a thread, those that the row has.

    Parameters
    ----------
    array, begin, packets, words
        As of :func:`load_packets`.
    """
    width = ptx.items16(array)
    for k in range(len(words) // 4):
        packet = int32(cuda.threadIdx.x + k * cuda.blockDim.x)
        if packet < packets:
            at = 4 * k
            stored = (words[at], words[at + 1], words[at + 2], words[at + 3])
            ptx.store_raw16(array, (begin + packet) * width, stored)


@cuda.jit(device=True)
def _affine(array, packets, early, words, k):
    """Make numbers of packet k of weight or bias, which a thread has, or loads now."""
    if early:
        return widened(array, words, k)
    return ptx.load16(array, place(k, packets) * ptx.items16(array))


@cuda.jit(device=True)
def _add_residual(residual, begin, packets, held, total):
    """Add the residual to what a thread holds, store the sum, and hold it as it is stored.

    The sum is rounded to the storage format, as the next layers will see it.
    """
    width = ptx.items16(residual)
    for k in range(len(held) // 4):
        added = ptx.load16(residual, (begin + place(k, packets)) * width)
        values = widened(residual, held, k)
        for e in range(width):
            values = ptx.with_item(values, e, values[e] + added[e])
        words = ptx.round_raw16(total, values)
        for w in range(4):
            held[4 * k + w] = words[w]
    # Lanes without a packet have read one of their warp, which may be overwritten now.
    cuda.syncwarp()
    store_packets(total, begin, packets, held)


@cuda.jit(device=True)
def _sum_held(array, packets, held):
    """Add up what a thread holds."""
    share = float32(0)
    for k in range(len(held) // 4):
        if int32(cuda.threadIdx.x + k * cuda.blockDim.x) < packets:
            for value in widened(array, held, k):
                share += value
    return share


@cuda.jit(device=True)
def sum_squares(array, packets, mean, held):
    """Add up the squared distances from the mean of what a thread holds.

    Parameters
    ----------
    array : array
        Only its type matters.
    packets : int
        Of the row.
    mean : float32
    held : local uint32 [4 k]
    """
    share = float32(0)
    for k in range(len(held) // 4):
        if int32(cuda.threadIdx.x + k * cuda.blockDim.x) < packets:
            for value in widened(array, held, k):
                share += (value - mean) * (value - mean)
    return share


@functools.cache
def finisher(held_packets: int, activation: str | None, has_bias: bool) -> Any:
    """Make the function that normalises, scales, shifts, activates and stores what a thread holds.

    Parameters
    ----------
    held_packets, activation, has_bias
        As of :func:`norm_added`.

    Returns
    -------
    device function
        ``(0, (x, weight, bias, out, begin, packets, held, weights, shifts, mean, inverse))``.
    """
    early, activated = held_packets <= EARLY, ACTIVATED[activation]

    @cuda.jit(device=True)
    def finish(k, operands):
        """Finish packet k."""
        x, weight, bias, out, begin, packets, held, weights, shifts, mean, inverse = operands
        width, numbers = ptx.items16(x), cuda.local.array(PACKET, float32)
        values, scales = widened(x, held, k), _affine(weight, packets, early, weights, k)
        added = ptx.zeros16(bias)
        if has_bias:
            added = _affine(bias, packets, early, shifts, k)
        for e in range(width):
            numbers[e] = (values[e] - mean) * inverse * scales[e] + added[e]
        # Alone in its loop: with what indexes tuples beside it, it would not be unrolled.
        for e in range(width):
            numbers[e] = activated(numbers[e])
        results = ptx.zeros16(out)
        for e in range(width):
            results = ptx.with_item(results, e, numbers[e])
        packet = int32(cuda.threadIdx.x + k * cuda.blockDim.x)
        if packet < packets:
            ptx.store16(out, (begin + packet) * width, results)

    return unrolled(held_packets, finish)


@functools.cache
def norm_added(held_packets: int, activation: str | None, has_bias: bool) -> Any:
    """Make the kernel for threads that hold so many packets.

    Parameters
    ----------
    held_packets : int
        Up to 4; of more than 2 the weights do not find room until the sums are known.
    activation : {None, "gelu", "gelu_tanh", "silu"}
    has_bias : bool
        Whether it is LayerNorm; else RMSNorm, and `bias` is empty.

    Returns
    -------
    dispatcher
        ``norm_added(x, residual, weight, bias, eps, total, out)``.
    """
    words, early = 4 * held_packets, held_packets <= EARLY
    finish_all = finisher(held_packets, activation, has_bias)

    @cuda.jit(launch_bounds=LAUNCH_BOUNDS[held_packets])
    def norm_added(x, residual, weight, bias, eps, total, out):
        """Load and store 16 bytes at a time, all packets of a thread under way at once."""
        partial_sums = cuda.shared.array(MAX_WARPS, float32)
        partial_squares = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(words, uint32)
        weights = cuda.local.array(words, uint32)
        shifts = cuda.local.array(words, uint32)
        row = int32(cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y)
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        length, width = x.shape[1], ptx.items16(x)
        # One division, while registers are free: it has a rare case, which takes some.
        of_one = float32(1) / float32(length)
        packets = int32(length // width)
        begin = int32(row * packets)
        load_packets(x, begin, packets, held)
        _add_residual(residual, begin, packets, held, total)
        if early:
            load_packets(weight, 0, packets, weights)
            if has_bias:
                load_packets(bias, 0, packets, shifts)
        mean = float32(0)
        if has_bias:
            share = _sum_held(x, packets, held)
            mean = sum_over_row(share, partial_sums) * of_one
        share = sum_squares(x, packets, mean, held)
        mean_square = sum_over_row(share, partial_squares) * of_one
        inverse = libdevice.rsqrtf(mean_square + eps)
        finish_all(0, (x, weight, bias, out, begin, packets, held, weights, shifts, mean, inverse))

    return norm_added
