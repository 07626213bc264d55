"""The last step of the norms' ladders, without a residual: 16 bytes at a time.

Each number is read once. For rows that are whole packets of 16 bytes and no more than 64 KiB, as
hidden states are. They begin on a packet, and weight and bias, which go by the column, are packets
too.

What a kernel need not do should take no registers either: each activation has a kernel of its own.
And how many packets a thread holds must be known when it is compiled. Where C++ has template
parameters, a Python function makes the kernel.

A norm alone has the time of 35 instructions a number (see :mod:`llm_numba.kernels.softmax`), and
what a thread does once, however much it holds, counts: the shuffles of a sum are twenty. So
LayerNorm, with two sums, has four packets a thread, RMSNorm two. And no packet is asked whether it
is there where all are.
"""

import functools
from typing import Any

from numba import cuda, float32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import gelu, gelu_tanh, silu
from llm_numba.kernels.rows import LAUNCH_BOUNDS, MAX_WARPS, MOST_PACKETS, PACKET, sum_over_row


@cuda.jit(device=True)
def _hold(x, begin, packets, whole, held):
    """Load the packets of a thread, and nothing else between: so they are all under way at once."""
    width = ptx.items16(x)
    for k in range(len(held) // PACKET):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if whole or packet < packets:
            values = ptx.load16(x, begin + packet * width)
            for e in range(width):
                held[k * width + e] = values[e]


@cuda.jit(device=True)
def _sum_held(packets, width, whole, held):
    """Add up what a thread holds."""
    share = float32(0)
    for k in range(len(held) // PACKET):
        if whole or cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                share += held[at]
    return share


@cuda.jit(device=True)
def _sum_squares(packets, width, whole, mean, held):
    """Add up the squared distances from the mean of what a thread holds."""
    share = float32(0)
    for k in range(len(held) // PACKET):
        if whole or cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                distance = held[at] - mean
                share += distance * distance
    return share


@cuda.jit(device=True)
def _unchanged(value):
    return value


ACTIVATED = {None: _unchanged, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


@functools.cache
def norm_alone(held_packets: int, activation: str | None, has_bias: bool, whole: bool) -> Any:
    """Make the kernel for threads that hold so many packets.

    Parameters
    ----------
    held_packets : int
        Up to 4.
    activation : {None, "gelu", "gelu_tanh", "silu"}
    has_bias : bool
        Whether it is LayerNorm; else RMSNorm, and `bias` is empty.
    whole : bool
        Whether all threads have so many packets.

    Returns
    -------
    dispatcher
        ``norm_vectorised(x, weight, bias, eps, out)``.
    """
    numbers, activated = held_packets * PACKET, ACTIVATED[activation]

    @cuda.jit(launch_bounds=LAUNCH_BOUNDS[held_packets])
    def norm_vectorised(x, weight, bias, eps, out):
        """Load and store 16 bytes at a time, all packets of a thread under way at once."""
        partial_sums = cuda.shared.array(MAX_WARPS, float32)
        partial_squares = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(numbers, float32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        length, width = x.shape[1], ptx.items16(x)
        # One division, while registers are free: it has a rare case, which takes some.
        of_one = float32(1) / float32(length)
        begin, packets = row * length, length // width
        _hold(x, begin, packets, whole, held)
        mean = float32(0)
        if has_bias:
            share = _sum_held(packets, width, whole, held)
            mean = sum_over_row(share, partial_sums) * of_one
        share = _sum_squares(packets, width, whole, mean, held)
        mean_square = sum_over_row(share, partial_squares) * of_one
        inverse = libdevice.rsqrtf(mean_square + eps)
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if whole or packet < packets:
                weights, shifts = ptx.load16(weight, packet * width), ptx.zeros16(bias)
                if has_bias:
                    shifts = ptx.load16(bias, packet * width)
                values = ptx.zeros16(out)
                for e in range(width):
                    value = (held[k * width + e] - mean) * inverse * weights[e] + shifts[e]
                    values = ptx.with_item(values, e, activated(value))
                ptx.store16(out, begin + packet * width, values)

    return norm_vectorised


def packets_to_hold(has_bias: bool) -> int:
    """Choose how many packets a thread holds of a row that leaves the choice.

    It goes by the norm alone, so that a row's result never depends on what else is in the batch.

    Parameters
    ----------
    has_bias : bool
        As of :func:`norm_alone`.

    Returns
    -------
    int
    """
    return MOST_PACKETS if has_bias else 2
