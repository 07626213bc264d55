r"""What comes before and after a row of weights meets the rows of x.

The *prologue* is RMSNorm. Its factor 1/rms belongs to a whole row of x, so it may wait until the
sum is there:

.. math:: \sum_k \frac{x_k \gamma_k}{\mathrm{rms}(x)}\, W_{nk}
          = \frac{1}{\mathrm{rms}(x)} \sum_k (x_k \gamma_k)\, W_{nk}

Each thread adds the squares of what it reads of x anyway. So the norm costs no pass over x, and
the normalised row is never rounded or stored.

The *epilogue* adds a bias, applies an activation and adds a residual. In a gated MLP two rows of
weights make one number: row f of the gate, and row F + f, which it multiplies.
"""

import functools
import math
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish, finish_gated
from llm_numba.kernels.reduce import WARP


@cuda.jit(device=True)
def inverse_rms(square, columns, eps):
    """Turn the sum of a row's squares into the factor that normalises the row.

    Parameters
    ----------
    square : float32
    columns : int
        Of the row.
    eps : float32

    Returns
    -------
    float32
    """
    return float32(1) / math.sqrt(square / float32(columns) + eps)


@cuda.jit(device=True)
def store_output(of_row, of_up, gated, row, column, bias, residual, activation, out):
    """Finish an element of C and store it.

    Parameters
    ----------
    of_row, of_up : float32
        Elements of A Wᵀ: the one of the column; and that of up, where there is a gate.
    gated : bool
    row, column : int
    bias, residual : array
    activation : int
    out : [M, N]
    """
    if gated:
        value = finish_gated(of_row, of_up, row, column, bias, residual)
    else:
        value = finish(of_row, row, column, bias, residual, activation)
    out[row, column] = ptx.from_float(out, value)


@functools.cache
def add_and_store(warps: int, outputs: int, gated: bool, normed: bool) -> Any:
    """Make the device function with which a block ends: add the sums of its warps, finish, store.

    Parameters
    ----------
    warps : int
        Of the block; threads are (32, warps).
    outputs : int
        Columns of C that the block makes.
    gated, normed : bool
        Whether there is a gate, and whether there is a norm.

    Returns
    -------
    device function
        Takes sums in shared memory, after a barrier: of products [warps, rows of weights, rows of
        x], and of squares [warps, rows of x]; the columns of x, eps of the norm, and what
        :func:`store_output` takes. With a gate, its rows come first, and then as many of up.
    """
    THREADS = WARP * warps

    @cuda.jit(device=True)
    def finish_block(partial, squares, columns, eps, bias, residual, activation, out):
        """Add in the order of the warps, and give each thread outputs to finish."""
        thread = cuda.threadIdx.y * WARP + cuda.threadIdx.x
        for i in range(thread, outputs * out.shape[0], THREADS):
            r, m = i % outputs, i // outputs
            of_row, of_up, squared = float32(0), float32(0), float32(0)
            for w in range(warps):
                of_row += partial[w, r, m]
                if gated:
                    of_up += partial[w, outputs + r, m]
                if normed:
                    squared += squares[w, m]
            factor = inverse_rms(squared, columns, eps) if normed else float32(1)
            of_row, of_up = of_row * factor, of_up * factor
            column = cuda.blockIdx.x * outputs + r
            if column < out.shape[1]:
                store_output(of_row, of_up, gated, m, column, bias, residual, activation, out)

    return finish_block
