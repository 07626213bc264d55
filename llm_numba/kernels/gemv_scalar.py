"""The first steps of the GEMV ladder: one number a load, a thread or a warp for each row of W.

They take any K, and operands that begin anywhere. So the faster steps, whose loads need addresses
that are multiples of 16, leave to the second one what does not fit.
"""

import functools
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemv_epilogue import inverse_rms, store_output
from llm_numba.kernels.reduce import WARP, warp_sum

WARPS = 8


@functools.cache
def naive_kernel(gated: bool, normed: bool) -> Any:
    """Make the kernel of the first step.

    Parameters
    ----------
    gated, normed : bool
        Whether there is a gate, and whether there is a norm.

    Returns
    -------
    kernel
    """

    @cuda.jit
    def gemv_naive(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Give each thread a row of weights: lane after lane goes down a column of W.

        What one would write for a CPU. For each k the 32 lanes read 32 rows: 32 sectors of 32
        bytes, of which 4 bytes each are used, or 2. The rest of a sector is used if it is still
        in a cache 32 bytes of row later.
        """
        column, row = cuda.grid(1), cuda.blockIdx.y
        if column >= out.shape[1]:
            return
        total, upper, square = float32(0), float32(0), float32(0)
        for k in range(x.shape[1]):
            value = ptx.to_float(x[row, k])
            if normed:
                square += value * value
                value *= ptx.to_float(norm_weight[k])
            total += ptx.to_float(weight[column, k]) * value
            if gated:
                upper += ptx.to_float(weight[column + out.shape[1], k]) * value
        factor = inverse_rms(square, x.shape[1], eps) if normed else float32(1)
        total, upper = total * factor, upper * factor
        store_output(total, upper, gated, row, column, bias, residual, activation, out)

    return gemv_naive


@functools.cache
def warp_kernel(M: int, gated: bool, normed: bool) -> Any:
    """Make the kernel of the second step.

    Parameters
    ----------
    M : int
        Rows of x, at least as many as there are; the last one stands for those beyond.
    gated, normed : bool

    Returns
    -------
    kernel
    """

    @cuda.jit
    def gemv_warp(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Give each warp a row of weights, lanes along K: all bytes of a sector are used.

        A weight is loaded once for all rows of x. How many they are is known when the kernel is
        compiled, so that their sums are registers.
        """
        column = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if column >= out.shape[1]:  # for all lanes alike: no shuffle misses one
            return
        lane = cuda.threadIdx.x
        total = cuda.local.array(M, float32)
        upper = cuda.local.array(M, float32)
        square = cuda.local.array(M, float32)
        for m in range(M):
            total[m] = upper[m] = square[m] = float32(0)
        for k in range(lane, x.shape[1], WARP):
            of_row = ptx.to_float(weight[column, k])
            of_up = ptx.to_float(weight[column + out.shape[1], k]) if gated else float32(0)
            for m in range(M):
                value = ptx.to_float(x[min(m, x.shape[0] - 1), k])
                if normed:
                    square[m] += value * value
                    value *= ptx.to_float(norm_weight[k])
                total[m] += of_row * value
                if gated:
                    upper[m] += of_up * value
        of_row, of_up, squares = float32(0), float32(0), float32(0)
        for m in range(M):
            sums = warp_sum(total[m]), warp_sum(upper[m]), warp_sum(square[m])
            if lane == m:
                of_row, of_up, squares = sums
        if lane < out.shape[0]:
            factor = inverse_rms(squares, x.shape[1], eps) if normed else float32(1)
            of_row, of_up = of_row * factor, of_up * factor
            store_output(of_row, of_up, gated, lane, column, bias, residual, activation, out)

    return gemv_warp
