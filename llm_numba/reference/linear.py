r"""The linear layer, a matrix product with everything around it at once.

.. math:: C = \mathrm{act}(\mathrm{norm}(A) W^T + b) + R

A is [M, K], W is [N, K] as checkpoints store it, so that both operands are read along K. The norm
of A's rows, the bias b, the activation and the residual R may each be missing. Of a gated MLP the
activation takes two columns to one: W is then [2F, K], the rows of the gate before those of up.

2 M N K FLOPs. The fewest bytes are those of A, W, R and C once each: with M = 1 (decoding) the
weights W are nearly all of them, which is why decoding runs at the speed of memory.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from llm_numba.reference.activation import gelu, gelu_tanh, silu, silu_mul
from llm_numba.reference.layernorm import rms_norm

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "silu_mul": silu_mul,
}


def linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    activation: str | None = None,
    residual: np.ndarray | None = None,
    out_dtype: DTypeLike | None = None,
    norm_weight: np.ndarray | None = None,
    eps: float = 0.0,
    batch_invariant: bool = False,
) -> np.ndarray:
    """Multiply by a weight matrix, with a norm before it and what follows as an epilogue.

    Parameters
    ----------
    x : float [M, K]
    weight : float [N, K]
    bias : float [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
        With ``"silu_mul"`` N is 2F, and column f of the result is SiLU of column f times column
        F + f.
    residual : float [M, N] or [M, F], optional
        Added after the activation.
    out_dtype : dtype-like, optional
        Of the result; by default what the operands have in common.
    norm_weight : float [K], optional
        Where given, rows of x are RMS-normalised first, and not rounded in between.
    eps : float
        Of that norm.
    batch_invariant : bool
        Make each row's result independent of how many others there are, to the bit.

    Returns
    -------
    float [M, N] or [M, F]

    Notes
    -----
    BLAS copies its right-hand operand into an order of its own. ``x @ weight.T`` would have it
    repack the large matrix at each call; ``weight @ x.T`` has it repack the small one, which is
    what counts where x has a few rows only.
    """
    if norm_weight is not None:
        x = rms_norm(x, norm_weight, eps)
    if batch_invariant and len(x) > 1:
        y = np.concatenate([_product(row, weight) for row in np.split(x, len(x))])
    else:
        y = _product(x, weight)
    if bias is not None:
        y += bias
    if activation is not None:
        y = ACTIVATIONS[activation](y)
    if residual is not None:
        y += residual
    return y if out_dtype is None else y.astype(out_dtype, copy=False)


def _product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((weight @ x.T).T)
