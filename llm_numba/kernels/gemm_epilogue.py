"""What follows a matrix product, done while the result is still in a register.

The *epilogue* adds a bias, applies an activation and adds a residual. As kernels of their own
these would read and write C once more each; here the bias and the residual are read once, and
nothing else crosses memory.

In a gated MLP two columns of A Wᵀ make one number: column f, the gate, and column F + f, which its
SiLU multiplies.
"""

from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import activate, silu


@cuda.jit(device=True)
def finish(product, row, column, bias, residual, activation):
    """Turn an element of A Wᵀ into one of C.

    Parameters
    ----------
    product : float32
    row, column : int
    bias : [N]
        Of length 0 where there is none. All threads agree on that: the branch is cheap.
    residual : [M, N]
        Of shape [0, 0] where there is none.
    activation : int
        Of :data:`llm_numba.kernels.activation.ACTIVATIONS`.

    Returns
    -------
    float32
    """
    if bias.size > 0:
        product += ptx.to_float(bias[column])
    product = activate(product, activation)
    if residual.size > 0:
        product += ptx.to_float(residual[row, column])
    return product


@cuda.jit(device=True)
def finish_gated(gate, up, row, column, bias, residual):
    """Turn two elements of A Wᵀ into one of C: SiLU of the first, times the second.

    Parameters
    ----------
    gate, up : float32
    row, column : int
        Of C.
    bias : [2F]
        Of length 0 where there is none.
    residual : [M, F]
        Of shape [0, 0] where there is none.

    Returns
    -------
    float32
    """
    if bias.size > 0:
        gate += ptx.to_float(bias[column])
        up += ptx.to_float(bias[column + bias.size // 2])
    value = silu(gate) * up
    if residual.size > 0:
        value += ptx.to_float(residual[row, column])
    return value
