"""What every softmax kernel does with rows, numbers and packets: cut, scale, mask, merge, invert.

All powers are of two; see :mod:`llm_numba.kernels.softmax`.
"""

from numba import cuda, float32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import MINUS_INFINITY


@cuda.jit(device=True)
def row_of_mask(mask, row):
    """Return the row of the mask that belongs to a row of x.

    Parameters
    ----------
    mask : bool [K, N]
        Its K rows repeat; of no row where there is no mask.
    row : int
    """
    return row % mask.shape[0] if mask.shape[0] > 0 else 0


@cuda.jit(device=True)
def cut_row(x, row, aligned):
    """Cut a row into edges and packets.

    Parameters
    ----------
    x : array [M, N]
    row : int
    aligned : bool
        Whether all rows are whole packets, known when the kernel is compiled: then there are no
        edges, and the code for them is gone.

    Returns
    -------
    head : int
        Columns before the first 16-byte boundary.
    packets : int
    edge : int
        Column of this thread's edge; beyond the row if it has none.
    """
    length, width = x.shape[1], ptx.items16(x)
    if aligned:
        return 0, length // width, length
    head = -(row * length) & (width - 1)
    packets = max(0, (length - head) // width)
    t = cuda.threadIdx.x
    return head, packets, t if t < head else t + packets * width


@cuda.jit(device=True)
def masked_logit(value, mask, scale, mask_row, column):
    """Scale a number; minus infinity if it is masked.

    The product must be rounded before anything is subtracted from it, hence ``fmul_rn``. Fused
    with the subtraction into one instruction it would stay exact, which the maximum is not: for
    large numbers the difference of the two overflows.
    """
    if mask.shape[0] > 0 and not mask[mask_row, column]:
        return MINUS_INFINITY
    return libdevice.fmul_rn(value, scale)


@cuda.jit(device=True)
def logit(x, mask, scale, row, mask_row, column):
    """Read a number of x, scaled and masked."""
    return masked_logit(ptx.to_float(x[row, column]), mask, scale, mask_row, column)


@cuda.jit(device=True)
def reference_point(maximum):
    """Return what to subtract: 0 if nothing was seen, as -inf - (-inf) would be NaN."""
    return maximum if maximum > MINUS_INFINITY else float32(0)


@cuda.jit(device=True)
def inverse_or_one(total):
    """Return 1 / total; 1 for an empty row, where it multiplies zeros."""
    return float32(1) / total if total != float32(0) else float32(1)


@cuda.jit(device=True)
def packet_logits(values, masked, column):
    """Scale a packet of numbers, and mask it if there is a mask.

    Parameters
    ----------
    values : tuple of float32
    masked : (bool, bool [K, N], float32, int)
        Whether there is a mask, known when the kernel is compiled; the mask, the scale, and the row
        of the mask. A question of each number costs more than the number.
    column : int
        Of the first number.
    """
    has_mask, mask, scale, mask_row = masked
    for e in range(len(values)):
        value = libdevice.fmul_rn(values[e], scale)
        if has_mask:
            value = masked_logit(values[e], mask, scale, mask_row, column + e)
        values = ptx.with_item(values, e, value)
    return values


@cuda.jit(device=True)
def merge(maximum, total, logits):
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
def store_quotients(out, index, logits, base, inverse):
    """Store a packet's powers, each divided by the sum of the row."""
    for e in range(len(logits)):
        logits = ptx.with_item(logits, e, ptx.exp2(logits[e] - base) * inverse)
    ptx.store16(out, index, logits)
