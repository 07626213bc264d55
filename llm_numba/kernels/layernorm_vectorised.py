"""The last step of the norms' ladders: 16 bytes at a time, each number read once.

For rows that are whole packets of 16 bytes and no more than 64 KiB, as hidden states are. Such
rows begin on a packet, and weight and bias, which go by the column, are packets too.

An activation inlined for each of 32 registers makes a long program, so each has a kernel of its
own, and the kernel without any stays short. Where C++ has a template parameter, a Python function
makes the kernel.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import gelu, gelu_tanh, silu
from llm_numba.kernels.layernorm_rows import inverse_deviation
from llm_numba.kernels.rows import (
    HELD,
    MAX_THREADS,
    MAX_WARPS,
    PACKETS,
    hold_packets,
    store_packets,
    sum_over_row,
)


@cuda.jit(device=True)
def _add_packets(addend, begin, packets, held):
    """Add packets to those that a thread holds."""
    width = ptx.items16(addend)
    for k in range(PACKETS):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if packet < packets:
            values = ptx.load16(addend, begin + packet * width)
            for e in range(width):
                held[k * width + e] += values[e]


@cuda.jit(device=True)
def _round_held(total, packets, held):
    """Round what a thread holds to the storage format, as the next layers will see it."""
    width = ptx.items16(total)
    for k in range(PACKETS):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                held[at] = ptx.to_float(ptx.from_float(total, held[at]))


@cuda.jit(device=True)
def _sum_held(packets, width, held):
    """Add up what a thread holds."""
    share = float32(0)
    for k in range(PACKETS):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                share += held[at]
    return share


@cuda.jit(device=True)
def _unchanged(value):
    return value


def _vectorised(activation):
    @cuda.jit(launch_bounds=MAX_THREADS)
    def norm_vectorised(x, residual, weight, bias, eps, total, out):
        """Load and store 16 bytes at a time, all packets of a thread under way at once.

        Without a residual, `residual` and `total` have no rows.
        """
        partial_sums = cuda.shared.array(MAX_WARPS, float32)
        partial_squares = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(HELD, float32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        length, width = x.shape[1], ptx.items16(x)
        begin, packets = row * length, length // width
        hold_packets(x, begin, packets, held)
        if residual.shape[0] > 0:
            _add_packets(residual, begin, packets, held)
            _round_held(total, packets, held)
            store_packets(total, begin, packets, held)
        mean = float32(0)
        if bias.size > 0:
            mean = sum_over_row(_sum_held(packets, width, held), partial_sums) / float32(length)
        squares = float32(0)
        for k in range(PACKETS):
            if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
                for at in range(k * width, (k + 1) * width):
                    held[at] -= mean
                    squares += held[at] * held[at]
        inverse = inverse_deviation(sum_over_row(squares, partial_squares), length, eps)
        for k in range(PACKETS):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                weights = ptx.load16(weight, packet * width)
                for e in range(width):
                    held[k * width + e] *= inverse * weights[e]
        if bias.size > 0:
            _add_packets(bias, 0, packets, held)
        # Activated packet by packet: all at once, the intermediate results outgrow the registers.
        for k in range(PACKETS):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                values = ptx.zeros16(out)
                for e in range(width):
                    values = ptx.with_item(values, e, activation(held[k * width + e]))
                ptx.store16(out, begin + packet * width, values)

    return norm_vectorised


VECTORISED = {
    None: _vectorised(_unchanged),
    "gelu": _vectorised(gelu),
    "gelu_tanh": _vectorised(gelu_tanh),
    "silu": _vectorised(silu),
}
