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

import math

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_epilogue import finish, finish_gated


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
