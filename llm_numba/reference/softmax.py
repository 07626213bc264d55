r"""Softmax over the last axis.

.. math:: y_i = \frac{e^{s x_i - m}}{\sum_j e^{s x_j - m}}, \qquad m = \max_j s x_j

Subtracting the maximum m changes nothing in exact arithmetic and keeps :math:`e^x` from
overflowing. A row with every entry masked gives zeros, not NaN.
"""

import numpy as np


def softmax(x: np.ndarray, scale: float = 1.0, mask: np.ndarray | None = None) -> np.ndarray:
    """Turn each row into probabilities.

    Parameters
    ----------
    x : float [..., T]
    scale : float
        Multiplies x first; attention's 1/sqrt(D).
    mask : bool [..., T], optional
        True where an entry counts; broadcast against x.

    Returns
    -------
    float [..., T]
    """
    y = x * scale
    if mask is not None:
        np.copyto(y, -np.inf, where=~mask)
    maximum = y.max(axis=-1, keepdims=True, initial=-np.inf)
    # A fully masked row has no maximum: 0 in its place gives exp(-inf) = 0, not exp(nan).
    maximum[np.isneginf(maximum)] = 0
    np.exp(np.subtract(y, maximum, out=y), out=y)
    total = y.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    y /= total
    return y


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Turn each row into logarithms of probabilities.

    Parameters
    ----------
    x : float [..., V]

    Returns
    -------
    float [..., V]
    """
    y = x - x.max(axis=-1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=-1, keepdims=True))
