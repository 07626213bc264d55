"""The epilogue of a product on tensor cores: 16 bytes of C at a time."""

from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import activated, gated


@cuda.jit(device=True)
def store_packet(sums, at, gap, row, column, bias, residual, activation, c):
    """Turn neighbours in a row of A Wᵀ into a packet of C.

    Where rows of C are no whole packets, its numbers are stored one by one.

    Parameters
    ----------
    sums : float32 shared array
    at : int
        Where the neighbours begin, a multiple of 4.
    gap : int
        From a gate to what it multiplies; 0 where there is none.
    row, column : int
        Of C, of the first; the column is a multiple of the packet.
    bias : [N]
        Of length 0 where there is none.
    residual : [M, N]
        Of shape [0, 0] where there is none.
    activation : int
        Of :data:`llm_numba.kernels.activation.ACTIVATIONS`.
    c : [M, N]
    """
    values, N = ptx.zeros16(c), c.shape[1]
    for first in range(0, ptx.items16(c), 4):
        quad = ptx.load16(sums, at + first)
        others = ptx.load16(sums, at + gap + first)
        for e in range(4):
            # Columns beyond the last are not stored, but their bias must not be looked for.
            n = min(column + first + e, N - 1)
            if gap:
                value = gated(quad[e], others[e], n, bias)
            else:
                value = activated(quad[e], n, bias, activation)
            values = ptx.with_item(values, first + e, value)
    if N % ptx.items16(c) == 0:
        if residual.size > 0:
            added = ptx.load16(residual, row * N + column)
            for e in range(ptx.items16(c)):
                values = ptx.with_item(values, e, values[e] + added[e])
        ptx.store16(c, row * N + column, values)
        return
    for e in range(ptx.items16(c)):
        if column + e < N:
            value = values[e]
            if residual.size > 0:
                value += ptx.to_float(residual[row, column + e])
            c[row, column + e] = ptx.from_float(c, value)
