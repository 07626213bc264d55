r"""The last step of the softmax ladder: 16 bytes at a time, and one read of x.

A 16-byte access needs an address that is a multiple of 16, and a row of odd length begins
anywhere. So a row is cut into the whole packets that lie on 16-byte boundaries, and its *edges*,
the few numbers before and after them. They are fewer than two packets' worth: no thread has more
than one.

::

    16-byte boundaries   |           |           |           |           |
    row                        [ e e | p p p p p | p p p p p | p p p p p | e ]
    edge of thread               0 1                                       2

Up to 64 KiB of row fit into the registers of a block. Longer rows are the business of
:mod:`~llm_numba.kernels.softmax_streamed`.
"""

import functools
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import (
    LAUNCH_BOUNDS,
    MAX_WARPS,
    MINUS_INFINITY,
    PACKET,
    hold_packets,
    max_over_row,
    store_packets,
    sum_over_row,
)
from llm_numba.kernels.softmax_logits import (
    cut_row,
    inverse_or_one,
    logit,
    masked_logit,
    reference_point,
    row_of_mask,
)


@functools.cache
def softmax_held(held_packets: int) -> Any:
    """Make the kernel for threads that hold so many packets: a loop over registers is unrolled.

    Parameters
    ----------
    held_packets : int
        Up to 4.

    Returns
    -------
    dispatcher
        ``softmax_held(x, mask, scale, out)``.
    """
    numbers = held_packets * PACKET

    @cuda.jit(launch_bounds=LAUNCH_BOUNDS[held_packets])
    def softmax_held(x, mask, scale, out):
        """Hold the row in registers, all packets of a thread under way at once.

        The powers are computed once, relative to the maximum of their thread, which is known
        first; one factor takes them to the maximum of the row and divides them by the sum.
        """
        maxima = cuda.shared.array(MAX_WARPS, float32)
        sums = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(numbers, float32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        width, mask_row = ptx.items16(x), row_of_mask(mask, row)
        head, packets, edge_column = cut_row(x, row)
        begin = row * x.shape[1] + head

        hold_packets(x, begin, packets, held)
        edge = MINUS_INFINITY
        if edge_column < x.shape[1]:
            edge = logit(x, mask, scale, row, mask_row, edge_column)
        maximum = edge
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                for e in range(width):
                    at, column = k * width + e, head + packet * width + e
                    held[at] = masked_logit(held[at], mask, scale, mask_row, column)
                    maximum = max(maximum, held[at])

        base = reference_point(maximum)
        edge = ptx.exp2(edge - base)
        total = edge
        for k in range(held_packets):
            if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
                for at in range(k * width, (k + 1) * width):
                    held[at] = ptx.exp2(held[at] - base)
                    total += held[at]

        factor = ptx.exp2(maximum - reference_point(max_over_row(maximum, maxima)))
        factor *= inverse_or_one(sum_over_row(total * factor, sums))
        for k in range(held_packets):
            if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
                for at in range(k * width, (k + 1) * width):
                    held[at] *= factor
        store_packets(out, begin, packets, held)
        if edge_column < x.shape[1]:
            out[row, edge_column] = ptx.from_float(out, edge * factor)

    return softmax_held
