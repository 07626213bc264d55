"""What follows a matrix product, done while the result is still in a register.

The *epilogue* adds a bias, applies an activation and adds a residual. As kernels of their own
these would read and write C once more each; here the bias and the residual are read once, and
nothing else crosses memory.

In a gated MLP two columns of A Wᵀ make one number: column f, the gate, and column F + f, which its
SiLU multiplies.
"""

from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import activate, silu_mul


@cuda.jit(device=True)
def activated(product, column, bias, activation):
    """Add the bias to an element of A Wᵀ and apply the activation; parameters as of `finish`."""
    # All threads agree on whether there is a bias: the branch is cheap.
    if bias.size > 0:
        product += ptx.to_float(bias[column])
    return activate(product, activation)


@cuda.jit(device=True)
def gated(gate, up, column, bias):
    """Add the biases to two elements of A Wᵀ and multiply; parameters as of `finish_gated`."""
    if bias.size > 0:
        gate += ptx.to_float(bias[column])
        up += ptx.to_float(bias[column + bias.size // 2])
    return silu_mul(gate, up)


@cuda.jit(device=True)
def finish(product, row, column, bias, residual, activation):
    """Turn an element of A Wᵀ into one of C.

    Parameters
    ----------
    product : float32
    row, column : int
    bias : [N]
        Of length 0 where there is none.
    residual : [M, N]
        Of shape [0, 0] where there is none.
    activation : int
        Of :data:`llm_numba.kernels.activation.ACTIVATIONS`.

    Returns
    -------
    float32
    """
    product = activated(product, column, bias, activation)
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
    value = gated(gate, up, column, bias)
    if residual.size > 0:
        value += ptx.to_float(residual[row, column])
    return value
