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
:mod:`~llm_numba.kernels.softmax_clustered` and :mod:`~llm_numba.kernels.softmax_streamed`.
"""

import functools
from typing import Any

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.packets import widened
from llm_numba.kernels.rows import (
    LAUNCH_BOUNDS,
    MAX_WARPS,
    MINUS_INFINITY,
    hold_words,
    max_over_row,
    sum_over_row,
)
from llm_numba.kernels.softmax_logits import (
    cut_row,
    inverse_or_one,
    logit,
    merge,
    packet_logits,
    reference_point,
    row_of_mask,
    store_quotients,
)


@functools.cache
def softmax_held(held_packets: int, has_mask: bool, aligned: bool) -> Any:
    """Make the kernel for threads that hold so many packets: a loop over registers is unrolled.

    Parameters
    ----------
    held_packets : int
        Up to 4.
    has_mask : bool
    aligned : bool
        Whether all rows are whole packets.

    Returns
    -------
    dispatcher
        ``softmax_held(x, mask, scale, out)``.
    """
    words = 4 * held_packets

    @cuda.jit(launch_bounds=LAUNCH_BOUNDS[held_packets])
    def softmax_held(x, mask, scale, out):
        """Hold the row in registers, as it is in memory, all packets of a thread under way at once.

        The powers are computed twice, of the thread's maximum and of the row's: each is one
        instruction, and to keep them would take twice the registers.
        """
        maxima = cuda.shared.array(MAX_WARPS, float32)
        sums = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(words, uint32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
            return
        width, masked = ptx.items16(x), (has_mask, mask, scale, row_of_mask(mask, row))
        head, packets, edge_column = cut_row(x, row, aligned)
        begin = row * x.shape[1] + head

        hold_words(x, begin, packets, held)
        edge = MINUS_INFINITY
        if edge_column < x.shape[1]:
            edge = logit(x, mask, scale, row, masked[3], edge_column)
        maximum, total = edge, ptx.exp2(edge - reference_point(edge))
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                values = packet_logits(widened(x, held, k), masked, head + packet * width)
                maximum, total = merge(maximum, total, values)

        base = reference_point(max_over_row(maximum, maxima))
        inverse = inverse_or_one(sum_over_row(total * ptx.exp2(maximum - base), sums))
        for k in range(held_packets):
            packet = cuda.threadIdx.x + k * cuda.blockDim.x
            if packet < packets:
                values = packet_logits(widened(x, held, k), masked, head + packet * width)
                store_quotients(out, begin + packet * width, values, base, inverse)
        if edge_column < x.shape[1]:
            out[row, edge_column] = ptx.from_float(out, ptx.exp2(edge - base) * inverse)

    return softmax_held
