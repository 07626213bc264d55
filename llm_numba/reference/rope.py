r"""Rotary position embedding (RoPE).

Component i of the first half of a head and component i of its second half form a pair, turned by
an angle that grows with the position p:

.. math::

    \begin{pmatrix} y_i \\ y_{i+d/2} \end{pmatrix} =
    \begin{pmatrix}
    \cos p\theta_i & -\sin p\theta_i \\
    \sin p\theta_i & \cos p\theta_i
    \end{pmatrix}
    \begin{pmatrix} x_i \\ x_{i+d/2} \end{pmatrix},
    \qquad \theta_i = \mathrm{base}^{-2i/d}

Only the first d components of a head turn ("partial" RoPE has d < D); the rest pass unchanged.
The dot product of a query at p and a key at q then depends on p - q alone.

A longer context than the model was trained for is had by slowing the rotation down: *linear*
scaling divides every :math:`\theta_i` by a factor; *llama3* divides only those whose wavelength is
long compared with the original context, leaves the short ones, and blends in between.

References
----------
Su et al., "RoFormer", 2021; Chen et al., "Extending Context Window of Large Language Models via
Positional Interpolation", 2023 (linear); Dubey et al., "The Llama 3 Herd of Models", 2024.
"""

import math
from dataclasses import dataclass

import numpy as np

from llm_numba.reference.kv import write_kv
from llm_numba.reference.layernorm import rms_norm


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies are changed for long contexts.

    Parameters
    ----------
    kind : {"default", "linear", "llama3"}
    factor : float
        How many times longer the context becomes.
    low_freq_factor, high_freq_factor : float
        llama3: wavelengths above ``original_context / low_freq_factor`` are scaled in full, those
        below ``original_context / high_freq_factor`` not at all.
    original_context : int
        llama3: the context length in training.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


def rope_frequencies(rotary_dim: int, base: float, scaling: RopeScaling) -> np.ndarray:
    """Compute the angle per position of each pair.

    Parameters
    ----------
    rotary_dim : int
        d, how many components of a head turn.
    base : float
        ``rope_theta``.
    scaling : RopeScaling

    Returns
    -------
    float64 [d/2], radians per position
    """
    theta = base ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    if scaling.kind == "linear":
        return theta / scaling.factor
    if scaling.kind == "llama3":
        wavelength = 2 * math.pi / theta
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        # 1 keeps a frequency, 0 divides it by the factor.
        keep = np.clip((scaling.original_context / wavelength - low) / (high - low), 0.0, 1.0)
        return theta * (keep + (1 - keep) / scaling.factor)
    return theta


def rope_tables(
    frequencies: np.ndarray, num_positions: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate cosines and sines for every position.

    Parameters
    ----------
    frequencies : float64 [d/2]
    num_positions : int
        T
    dtype : dtype
        Angles are computed in float64 and rounded once, here.

    Returns
    -------
    cos, sin : dtype [T, d/2]
    """
    angles = np.arange(num_positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rope(x: np.ndarray, positions: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Turn queries or keys by the angles of their positions.

    Parameters
    ----------
    x : float [N, H, D]
    positions : int [N]
    cos, sin : float [T, d/2]
        From :func:`rope_tables`; d <= D.

    Returns
    -------
    float [N, H, D]
    """
    half = cos.shape[-1]
    c, s = cos[positions][:, None, :], sin[positions][:, None, :]
    first, second = x[..., :half], x[..., half : 2 * half]
    y = np.empty_like(x)
    y[..., :half] = first * c - second * s
    y[..., half : 2 * half] = second * c + first * s
    y[..., 2 * half :] = x[..., 2 * half :]
    return y


def rope_and_write_kv(
    qkv: np.ndarray,
    positions: np.ndarray,
    cos: np.ndarray | None,
    sin: np.ndarray | None,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
    slot_mapping: np.ndarray,
    q_norm: np.ndarray | None = None,
    k_norm: np.ndarray | None = None,
    eps: float = 0.0,
) -> np.ndarray:
    """Do all that lies between the product that makes q, k, v and attention.

    Parameters
    ----------
    qkv : float [N, (H + 2G) D]
        Of each token all queries, then all keys, then all values. H follows from the width.
    positions : int [N]
    cos, sin : float [T, d/2], optional
        From :func:`rope_tables`; None for models without rotation.
    k_cache, v_cache : float [num_blocks, block_size, G, D]
        Written in place.
    slot_mapping : int [N]
        The slot of each token; negative ones are skipped.
    q_norm, k_norm : float [D], optional
        Weights of an RMSNorm of each head, before it is turned.
    eps : float
        Of the norms.

    Returns
    -------
    float [N, H, D]
        The queries.
    """
    groups, length = k_cache.shape[2:]
    heads = qkv.reshape(len(qkv), -1, length)
    q, k, v = np.split(heads, (-2 * groups, -groups), axis=1)
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    if cos is not None and sin is not None:
        q, k = (rope(each, positions, cos, sin) for each in (q, k))
    write_kv(k, v, k_cache, v_cache, slot_mapping)
    return q
