r"""Layer normalisation and RMS normalisation, alone and after a residual addition.

.. math::

    \mathrm{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta
    \qquad
    \mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\tfrac1E \sum_i x_i^2 + \epsilon}} \odot \gamma

with the mean :math:`\mu` and the (biased) variance :math:`\sigma^2` of each row of length E.
The fused forms first add the block's output to the residual stream and return both: in this way
the sum is written once and not read again.

References
----------
Ba, Kiros and Hinton, "Layer Normalization", 2016; Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019.
"""

import numpy as np


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Normalise each row to mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : float [..., E]
    weight, bias : float [E]
    eps : float
        Added to the variance.

    Returns
    -------
    float [..., E]
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Divide each row by its root mean square, then scale.

    Parameters
    ----------
    x : float [..., E]
    weight : float [E]
    eps : float
        Added to the mean square.

    Returns
    -------
    float [..., E]
    """
    mean_square = np.einsum("...e,...e->...", x, x)[..., None] / x.shape[-1]
    return x / np.sqrt(mean_square + eps) * weight


def add_layer_norm(
    x: np.ndarray, residual: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add to the residual stream and normalise the sum.

    Parameters
    ----------
    x, residual : float [..., E]
    weight, bias : float [E]
    eps : float

    Returns
    -------
    normed : float [..., E]
    residual : float [..., E]
        The sum.
    """
    residual = residual + x
    return layer_norm(residual, weight, bias, eps), residual


def add_rms_norm(
    x: np.ndarray, residual: np.ndarray, weight: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add to the residual stream and RMS-normalise the sum.

    Parameters
    ----------
    x, residual : float [..., E]
    weight : float [E]
    eps : float

    Returns
    -------
    normed : float [..., E]
    residual : float [..., E]
        The sum.
    """
    residual = residual + x
    return rms_norm(residual, weight, eps), residual
