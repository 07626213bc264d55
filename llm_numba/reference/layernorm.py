r"""Layer normalisation and RMS normalisation, alone and after a residual addition.

.. math::

    \mathrm{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta
    \qquad
    \mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\tfrac1E \sum_i x_i^2 + \epsilon}} \odot \gamma

with the mean :math:`\mu` and the (biased) variance :math:`\sigma^2` of each row of length E.
The fused forms first add the block's output to the residual stream and return both: in this way
the sum is written once and not read again.

An activation may follow. Decoders have a matrix product between the two, other networks do not:
the convolutions of wav2vec 2.0 (LayerNorm, GELU) and the residual blocks of Wan's video
autoencoder (RMSNorm, SiLU).

References
----------
Ba, Kiros and Hinton, "Layer Normalization", 2016; Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019; Baevski et al., "wav2vec 2.0", 2020, section 2.
"""

import numpy as np

from llm_numba.reference.activation import gelu, gelu_tanh, silu

_ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


def layer_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
    activation: str | None = None,
) -> np.ndarray:
    """Normalise each row to mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : float [..., E]
    weight, bias : float [E]
    eps : float
        Added to the variance.
    activation : {None, "gelu", "gelu_tanh", "silu"}
        What follows the norm.

    Returns
    -------
    float [..., E]
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return _activated(centred / np.sqrt(variance + eps) * weight + bias, activation)


def rms_norm(
    x: np.ndarray, weight: np.ndarray, eps: float, activation: str | None = None
) -> np.ndarray:
    """Divide each row by its root mean square, then scale.

    Parameters
    ----------
    x : float [..., E]
    weight : float [E]
    eps : float
        Added to the mean square.
    activation : {None, "gelu", "gelu_tanh", "silu"}
        What follows the norm.

    Returns
    -------
    float [..., E]
    """
    mean_square = np.einsum("...e,...e->...", x, x)[..., None] / x.shape[-1]
    return _activated(x / np.sqrt(mean_square + eps) * weight, activation)


def add_layer_norm(
    x: np.ndarray,
    residual: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
    activation: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Add to the residual stream and normalise the sum.

    Parameters
    ----------
    x, residual : float [..., E]
    weight, bias : float [E]
    eps : float
    activation : {None, "gelu", "gelu_tanh", "silu"}
        What follows the norm.

    Returns
    -------
    normed : float [..., E]
    residual : float [..., E]
        The sum.
    """
    residual = residual + x
    return layer_norm(residual, weight, bias, eps, activation), residual


def add_rms_norm(
    x: np.ndarray,
    residual: np.ndarray,
    weight: np.ndarray,
    eps: float,
    activation: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Add to the residual stream and RMS-normalise the sum.

    Parameters
    ----------
    x, residual : float [..., E]
    weight : float [E]
    eps : float
    activation : {None, "gelu", "gelu_tanh", "silu"}
        What follows the norm.

    Returns
    -------
    normed : float [..., E]
    residual : float [..., E]
        The sum.
    """
    residual = residual + x
    return rms_norm(residual, weight, eps, activation), residual


def _activated(y: np.ndarray, activation: str | None) -> np.ndarray:
    return y if activation is None else _ACTIVATIONS[activation](y)
