"""Softmax of rows that are too long for registers: in shared memory, copied while others end.

A block of an H100 may have 227 KiB of shared memory, but registers for 64 KiB of numbers. A block
that takes so much is alone on its SM, though: while it computes, nobody loads. So each block goes
from row to row, and asks for the next row in *stages*, as soon as their places are free:

::

    copies under way     row 0  0 1 2 3            row 1  0 1 2 3
    sum up               row 0    0 1 2 3                   row 1  0 1 2 3
    write                                   row 0  0 1 2 3

A thread copies, reads and overwrites its own packets and no others: they need no barrier. What a
row has beyond the shared memory is read twice, the second time from the L2 cache, if all goes well.

Loops have steps of 1, or are ``while`` loops. The length of a ``range`` with a step that is not
known takes a division of 64 bits, a hundred instructions: more than a packet's numbers do.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import (
    MAX_THREADS,
    MAX_WARPS,
    MINUS_INFINITY,
    max_over_row,
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

_STAGES = 4


@cuda.jit(launch_bounds=MAX_THREADS)
def softmax_streamed(x, mask, scale, out, slots):
    """Sum up packets by the online rule: one exponential a packet to change the maximum.

    Each thread has `slots` packets of the row in shared memory.
    """
    maxima = cuda.shared.array(MAX_WARPS, float32)
    sums = cuda.shared.array(MAX_WARPS, float32)
    tile = cuda.shared.array(0, x.dtype)
    width = ptx.items16(x)
    for stage in range(_STAGES):
        _begin_stage(x, cuda.blockIdx.x, stage, slots, tile)
    row = cuda.blockIdx.x
    while row < x.shape[0]:
        mask_row = row_of_mask(mask, row)
        head, packets, edge_column = cut_row(x, row)
        begin = row * x.shape[1] + head
        edge = MINUS_INFINITY
        if edge_column < x.shape[1]:
            edge = logit(x, mask, scale, row, mask_row, edge_column)
        maximum, total = edge, ptx.exp2(edge - reference_point(edge))
        # Those beyond the shared memory first: while they come, the stages arrive.
        packet = cuda.threadIdx.x + slots * cuda.blockDim.x
        while packet < packets:
            at = packet * width
            values = _logits16(x, begin + at, mask, scale, mask_row, head + at)
            maximum, total = _merge(maximum, total, values)
            packet += cuda.blockDim.x
        for stage in range(_STAGES):
            _wait_for_stage(stage)
            for slot in _slots_of(stage, slots):
                packet = cuda.threadIdx.x + slot * cuda.blockDim.x
                if packet < packets:
                    at = packet * width
                    values = _logits16(tile, at, mask, scale, mask_row, head + at)
                    maximum, total = _merge(maximum, total, values)

        base = reference_point(max_over_row(maximum, maxima))
        inverse = inverse_or_one(sum_over_row(total * ptx.exp2(maximum - base), sums))
        if edge_column < x.shape[1]:
            out[row, edge_column] = ptx.from_float(out, ptx.exp2(edge - base) * inverse)
        for stage in range(_STAGES):
            for slot in _slots_of(stage, slots):
                packet = cuda.threadIdx.x + slot * cuda.blockDim.x
                if packet < packets:
                    at = packet * width
                    values = _logits16(tile, at, mask, scale, mask_row, head + at)
                    _store_quotients(out, begin + at, values, base, inverse)
            _begin_stage(x, row + cuda.gridDim.x, stage, slots, tile)
        packet = cuda.threadIdx.x + slots * cuda.blockDim.x
        while packet < packets:
            at = packet * width
            values = _logits16(x, begin + at, mask, scale, mask_row, head + at)
            _store_quotients(out, begin + at, values, base, inverse)
            packet += cuda.blockDim.x
        row += cuda.gridDim.x


@cuda.jit(device=True)
def _slots_of(stage, slots):
    """Return a quarter of a thread's slots, by shifts: // minds negative numbers, in registers."""
    return range(stage * slots >> 2, (stage + 1) * slots >> 2)


@cuda.jit(device=True)
def _begin_stage(x, row, stage, slots, tile):
    """Begin to copy the packets of a stage, as one group; an empty one if there is no such row."""
    if row < x.shape[0]:
        width = ptx.items16(x)
        head, packets, _ = cut_row(x, row)
        begin = row * x.shape[1] + head
        for slot in _slots_of(stage, slots):
            packet = cuda.threadIdx.x + slot * cuda.blockDim.x
            if packet < packets:
                ptx.cp_async16(tile, packet * width, x, begin + packet * width)
    ptx.cp_async_commit()


@cuda.jit(device=True)
def _wait_for_stage(stage):
    """Wait until the packets of a stage have arrived: those of the stages after it may not have."""
    if stage == 0:
        ptx.cp_async_wait(3)
    elif stage == 1:
        ptx.cp_async_wait(2)
    elif stage == 2:
        ptx.cp_async_wait(1)
    else:
        ptx.cp_async_wait(0)


@cuda.jit(device=True)
def _logits16(array, index, mask, scale, mask_row, column):
    """Read a packet of x, there or where it was copied to, scaled and masked."""
    values = ptx.load16(array, index)
    for e in range(len(values)):
        value = masked_logit(values[e], mask, scale, mask_row, column + e)
        values = ptx.with_item(values, e, value)
    return values


@cuda.jit(device=True)
def _merge(maximum, total, logits):
    """Merge a packet into a part of the row, which its maximum and its sum stand for."""
    larger = maximum
    for e in range(len(logits)):
        larger = max(larger, logits[e])
    base = reference_point(larger)
    total *= ptx.exp2(maximum - base)
    for e in range(len(logits)):
        total += ptx.exp2(logits[e] - base)
    return larger, total


@cuda.jit(device=True)
def _store_quotients(out, index, logits, base, inverse):
    """Store a packet's powers, each divided by the sum of the row."""
    for e in range(len(logits)):
        logits = ptx.with_item(logits, e, ptx.exp2(logits[e] - base) * inverse)
    ptx.store16(out, index, logits)
