"""The last step of the norms' ladders: 16 bytes at a time, each number read once.

For rows that are whole packets of 16 bytes and no more than 64 KiB, as hidden states are. Such
rows begin on a packet, and weight and bias, which go by the column, are packets too.

What a kernel need not do should take no registers either: each activation, with and without a
residual, has a kernel of its own. And how many packets a thread holds must be known when it is
compiled. Where C++ has template parameters, a Python function makes the kernel.
"""

import functools
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import gelu, gelu_tanh, silu
from llm_numba.kernels.layernorm_rows import inverse_deviation
from llm_numba.kernels.rows import (
    LAUNCH_BOUNDS,
    MAX_WARPS,
    MOST_PACKETS,
    PACKET,
    hold_packets,
    holds,
    sum_over_row,
)


@cuda.jit(device=True)
def _add_residual(residual, begin, packets, held, total):
    """Add the residual to what a thread holds, store the sum, and hold it as it is stored.

    The sum is rounded to the storage format, as the next layers will see it.
    """
    width = ptx.items16(residual)
    for k in range(len(held) // PACKET):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if packet < packets:
            values = ptx.load16(residual, begin + packet * width)
            for e in range(width):
                held[k * width + e] += values[e]
    for k in range(len(held) // PACKET):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if packet < packets:
            values = ptx.zeros16(total)
            for e in range(width):
                values = ptx.with_item(values, e, held[k * width + e])
            words = ptx.round_raw16(total, values)
            ptx.store_raw16(total, begin + packet * width, words)
            values = ptx.widen_raw16(total, words)
            for e in range(width):
                held[k * width + e] = values[e]


@cuda.jit(device=True)
def _sum_held(packets, width, held):
    """Add up what a thread holds."""
    share = float32(0)
    for k in range(len(held) // PACKET):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                share += held[at]
    return share


@cuda.jit(device=True)
def _sum_squares(packets, width, mean, held):
    """Add up the squared distances from the mean of what a thread holds."""
    share = float32(0)
    for k in range(len(held) // PACKET):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                distance = held[at] - mean
                share += distance * distance
    return share


@cuda.jit(device=True)
def _unchanged(value):
    return value


ACTIVATED = {None: _unchanged, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


def packets_to_hold(row_packets: int) -> int:
    """Choose how many packets a thread holds: two, or four if a row does not fit otherwise.

    With two, a thread has 40 registers, and an SM of an H100 room for three blocks of 512: 48 KiB
    are under way, and blocks work while others wait at a barrier. It goes by the length of the row
    alone, so that a row's result never depends on what else is in the batch.

    Parameters
    ----------
    row_packets : int

    Returns
    -------
    int
    """
    return 2 if holds(row_packets, 2) else MOST_PACKETS


@functools.cache
def vectorised(
    held_packets: int, activation: str | None, has_residual: bool, has_bias: bool
) -> Any:
    """Make the kernel for threads that hold so many packets.

    Parameters
    ----------
    held_packets : int
        Up to 4.
    activation : {None, "gelu", "gelu_tanh", "silu"}
    has_residual : bool
        Whether `residual` and `total` have rows.
    has_bias : bool
        Whether it is LayerNorm; else RMSNorm, and `bias` is empty.

    Returns
    -------
    dispatcher
        ``norm_vectorised(x, residual, weight, bias, eps, total, out)``.
    """
    numbers, activated = held_packets * PACKET, ACTIVATED[activation]

    @cuda.jit(launch_bounds=LAUNCH_BOUNDS[held_packets])
    def norm_vectorised(x, residual, weight, bias, eps, total, out):
        """Load and store 16 bytes at a time, all packets of a thread under way at once."""
        partial_sums = cuda.shared.array(MAX_WARPS, float32)
        partial_squares = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(numbers, float32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        length, width = x.shape[1], ptx.items16(x)
        begin, packets = row * length, length // width
        hold_packets(x, begin, packets, held)
        if has_residual:
            _add_residual(residual, begin, packets, held, total)
        mean = float32(0)
        if has_bias:
            mean = sum_over_row(_sum_held(packets, width, held), partial_sums) / float32(length)
        squares = sum_over_row(_sum_squares(packets, width, mean, held), partial_squares)
        inverse = inverse_deviation(squares, length, eps)
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                weights, shifts = ptx.load16(weight, packet * width), ptx.zeros16(bias)
                if has_bias:
                    shifts = ptx.load16(bias, packet * width)
                values = ptx.zeros16(out)
                for e in range(width):
                    value = (held[k * width + e] - mean) * inverse * weights[e] + shifts[e]
                    values = ptx.with_item(values, e, activated(value))
                ptx.store16(out, begin + packet * width, values)

    return norm_vectorised
