"""The end of a product whose sums were not finished where they were made.

A *part* is a product over some of K, in float32 and with nothing added: C needs the sum of all
parts, and its epilogue. Each thread adds the parts of its output in their order. So the result is
the same in every run, which atomic additions, in the order in which blocks happen to finish, would
not give.
"""

import math
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish, finish_gated
from llm_numba.runtime import Launch

THREADS = 256


@cuda.jit
def gemm_add_parts(parts, bias, residual, activation, c):
    """One thread an output, and neighbours along a row: each part is read once, in whole sectors.

    Where the parts have twice the columns of C, columns f and F + f make one output.
    """
    row = cuda.blockIdx.x
    column = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    gated = parts.shape[2] > c.shape[1]
    if column < c.shape[1]:
        total, upper = float32(0), float32(0)
        for part in range(parts.shape[0]):
            total += parts[part, row, column]
            if gated:
                upper += parts[part, row, column + c.shape[1]]
        if gated:
            value = finish_gated(total, upper, row, column, bias, residual)
        else:
            value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


def add_parts(parts: Any, bias: Any, residual: Any, out: Any, activation: int = 0) -> Launch:
    """Plan the launch that adds parts to a result.

    Parameters
    ----------
    parts : float32 [S, M, N]
    bias : [N]
        Of length 0 where there is none.
    residual : [M, N] or [M, F]
        Of shape [0, 0] where there is none.
    out : [M, N], or [M, F] of N = 2F
    activation : int
        Of :data:`llm_numba.kernels.activation.ACTIVATIONS`; a gate needs none.
    """
    M, N = out.shape
    args = (parts, bias, residual, activation, out)
    return Launch(gemm_add_parts, (M, math.ceil(N / THREADS)), (THREADS,), args)
