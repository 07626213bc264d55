r"""The linear layer, a matrix product with everything that follows it at once.

.. math:: C = \mathrm{act}(A W^T + b) + R

A is [M, K], W is [N, K] as checkpoints store it, so that both operands are read along K.
2 M N K FLOPs. The fewest bytes are those of A, W, R and C once each: with M = 1 (decoding) the
weights W are nearly all of them, which is why decoding runs at the speed of memory.
"""

from collections.abc import Callable

import numpy as np

from llm_numba.reference.activation import gelu, gelu_tanh, silu

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
}


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    activation: str | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """Multiply by a weight matrix, with bias, activation and residual as an epilogue.

    Parameters
    ----------
    x : float [M, K]
    weight : float [N, K]
    bias : float [N], optional
    activation : {"gelu", "gelu_tanh", "silu"}, optional
    residual : float [M, N], optional
        Added after the activation.

    Returns
    -------
    float [M, N]

    Notes
    -----
    BLAS copies its right-hand operand into an order of its own. ``x @ weight.T`` would have it
    repack the large matrix at each call; ``weight @ x.T`` has it repack the small one, which is
    what counts where x has a few rows only.
    """
    y = np.ascontiguousarray((weight @ x.T).T)
    if bias is not None:
        y += bias
    if activation is not None:
        y = ACTIVATIONS[activation](y)
    if residual is not None:
        y += residual
    return y
