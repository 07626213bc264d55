r"""The last step of the softmax ladder: 16 bytes at a time, and one read of x.

A 16-byte access needs an address that is a multiple of 16, and a row of odd length begins
anywhere. So a row is cut into the whole packets that lie on 16-byte boundaries, and its *edges*,
the few numbers before and after them. They are fewer than two packets' worth: no thread has more
than one.

::

    16-byte boundaries   |           |           |           |           |
    row                        [ e e | p p p p p | p p p p p | p p p p p | e ]
    edge of thread               0 1                                       2

Up to 64 KiB of row fit into the registers of a block. Longer rows are summed up by the online
rule, a packet at a time, and read a second time: by then they lie in the L2 cache, which holds
64 KiB and more for each block that is under way, so that memory still sees one read.
"""

import math

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import (
    HELD,
    MAX_THREADS,
    MAX_WARPS,
    MINUS_INFINITY,
    PACKETS,
    hold_packets,
    max_over_row,
    store_packets,
    sum_over_row,
)
from llm_numba.kernels.softmax_logits import (
    inverse_or_one,
    logit,
    masked_logit,
    reference_point,
    row_of_mask,
)


@cuda.jit(device=True)
def _cut(x, row):
    """Cut a row into edges and packets.

    Returns
    -------
    head : int
        Columns before the first 16-byte boundary.
    packets : int
    edge : int
        Column of this thread's edge; beyond the row if it has none.
    """
    length, width = x.shape[1], ptx.items16(x)
    head = -(row * length) & (width - 1)
    packets = max(0, (length - head) // width)
    t = cuda.threadIdx.x
    return head, packets, t if t < head else t + packets * width


@cuda.jit(launch_bounds=MAX_THREADS)
def softmax_held(x, mask, scale, out):
    """Hold the row in registers, all packets of a thread under way at once.

    For rows that the threads have room for. The powers are computed once, relative to the maximum
    of their thread, which is known first; one factor takes them to the maximum of the row and
    divides them by the sum.
    """
    maxima = cuda.shared.array(MAX_WARPS, float32)
    sums = cuda.shared.array(MAX_WARPS, float32)
    held = cuda.local.array(HELD, float32)
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row >= x.shape[0]:  # a whole warp without a row; where warps share one, none returns
        return
    width, mask_row = ptx.items16(x), row_of_mask(mask, row)
    head, packets, edge_column = _cut(x, row)
    begin = row * x.shape[1] + head

    hold_packets(x, begin, packets, held)
    edge = MINUS_INFINITY
    if edge_column < x.shape[1]:
        edge = logit(x, mask, scale, row, mask_row, edge_column)
    maximum = edge
    for k in range(PACKETS):
        packet = cuda.threadIdx.x + k * cuda.blockDim.x
        if packet < packets:
            for e in range(width):
                at, column = k * width + e, head + packet * width + e
                held[at] = masked_logit(held[at], mask, scale, mask_row, column)
                maximum = max(maximum, held[at])

    base = reference_point(maximum)
    edge = math.exp2(edge - base)
    total = edge
    for k in range(PACKETS):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                held[at] = math.exp2(held[at] - base)
                total += held[at]

    factor = math.exp2(maximum - reference_point(max_over_row(maximum, maxima)))
    factor *= inverse_or_one(sum_over_row(total * factor, sums))
    for k in range(PACKETS):
        if cuda.threadIdx.x + k * cuda.blockDim.x < packets:
            for at in range(k * width, (k + 1) * width):
                held[at] *= factor
    store_packets(out, begin, packets, held)
    if edge_column < x.shape[1]:
        out[row, edge_column] = ptx.from_float(out, edge * factor)


@cuda.jit(launch_bounds=MAX_THREADS)
def softmax_long(x, mask, scale, out):
    """Sum up packets by the online rule: one exponential a packet to change the maximum.

    For rows that the threads have no room for.
    """
    maxima = cuda.shared.array(MAX_WARPS, float32)
    sums = cuda.shared.array(MAX_WARPS, float32)
    row, t, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    width, mask_row = ptx.items16(x), row_of_mask(mask, row)
    head, packets, edge_column = _cut(x, row)
    edge = MINUS_INFINITY
    if edge_column < x.shape[1]:
        edge = logit(x, mask, scale, row, mask_row, edge_column)

    maximum = edge
    total = math.exp2(edge - reference_point(edge))
    for packet in range(t, packets, threads):
        logits = _logits16(x, mask, scale, row, mask_row, head + packet * width)
        larger = maximum
        for e in range(width):
            larger = max(larger, logits[e])
        base = reference_point(larger)
        total *= math.exp2(maximum - base)
        for e in range(width):
            total += math.exp2(logits[e] - base)
        maximum = larger

    base = reference_point(max_over_row(maximum, maxima))
    inverse = inverse_or_one(sum_over_row(total * math.exp2(maximum - base), sums))
    if edge_column < x.shape[1]:
        out[row, edge_column] = ptx.from_float(out, math.exp2(edge - base) * inverse)
    for packet in range(t, packets, threads):
        column = head + packet * width
        values = _logits16(x, mask, scale, row, mask_row, column)
        for e in range(width):
            values = ptx.with_item(values, e, math.exp2(values[e] - base) * inverse)
        ptx.store16(out, row * x.shape[1] + column, values)


@cuda.jit(device=True)
def _logits16(x, mask, scale, row, mask_row, column):
    """Read a packet of x, scaled and masked."""
    values = ptx.load16(x, row * x.shape[1] + column)
    for e in range(len(values)):
        value = masked_logit(values[e], mask, scale, mask_row, column + e)
        values = ptx.with_item(values, e, value)
    return values
