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

A longer context than the model was trained for is had by slowing the rotation down:

============  ====================================================================================
``linear``    divides every :math:`\theta_i` by a factor
``dynamic``   raises the base, by as much as the longest sequence exceeds the original context:
              fast pairs keep their angles, the slowest is divided by about the factor
``llama3``    divides only those whose wavelength is long compared with the original context,
              leaves the short ones, and blends in between
``yarn``      the same, with a ramp over the pairs from those that turn ``beta_fast`` times in the
              original context to those that turn ``beta_slow`` times; and makes cosines and sines
              larger, so that attention stays as sharp
``longrope``  divides each by a factor of its own, found by search, one list for contexts up to the
              original one and one for longer; and makes cosines and sines larger, too
============  ====================================================================================

Frequencies are fixed before the first token, for the longest sequence that will be served. Keys
that lie turned in a cache could not follow a change. (Transformers computes those of ``dynamic``
and ``longrope`` anew as a sequence grows, and keeps the keys that it has.)

References
----------
Su et al., "RoFormer", 2021; Chen et al., "Extending Context Window of Large Language Models via
Positional Interpolation", 2023 (linear); Dubey et al., "The Llama 3 Herd of Models", 2024; Peng et
al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023 (dynamic in section
3.3, yarn); Ding et al., "LongRoPE", 2024.
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
    kind : {"default", "linear", "dynamic", "llama3", "yarn", "longrope"}
    factor : float
        How many times longer the context becomes.
    low_freq_factor, high_freq_factor : float
        llama3: wavelengths above ``original_context / low_freq_factor`` are scaled in full, those
        below ``original_context / high_freq_factor`` not at all.
    original_context : int
        All but linear: the context length in training.
    beta_fast, beta_slow : float
        yarn: pairs that turn so often in the original context begin and end the ramp.
    truncate : bool
        yarn: whether the ramp begins and ends at whole pairs.
    attention_factor : float, optional
        yarn, longrope: what cosines and sines are multiplied with, if not the papers' choice.
    mscale, mscale_all_dim : float
        yarn: weights of the logarithm in that choice; 0 where the model names none.
    short_factors, long_factors : tuple of float, [d/2]
        longrope: what each frequency is divided by, up to the original context and beyond it.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


def rope_frequencies(
    rotary_dim: int, base: float, scaling: RopeScaling, num_positions: int = 0
) -> np.ndarray:
    """Compute the angle per position of each pair.

    Parameters
    ----------
    rotary_dim : int
        d, how many components of a head turn.
    base : float
        ``rope_theta``.
    scaling : RopeScaling
    num_positions : int
        Length of the longest sequence; dynamic and longrope go by it.

    Returns
    -------
    float64 [d/2], radians per position
    """
    original = scaling.original_context
    if scaling.kind == "dynamic" and num_positions > original and rotary_dim > 2:
        growth = scaling.factor * num_positions / original - (scaling.factor - 1)
        base *= growth ** (rotary_dim / (rotary_dim - 2))
    theta = base ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    if scaling.kind == "linear":
        return theta / scaling.factor
    if scaling.kind == "longrope":
        is_long = num_positions > original
        return theta / np.array(scaling.long_factors if is_long else scaling.short_factors)
    if scaling.kind == "llama3":
        wavelength = 2 * math.pi / theta
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    elif scaling.kind == "yarn":
        keep = 1 - _yarn_ramp(rotary_dim, base, scaling)
    else:
        return theta
    # 1 keeps a frequency, 0 divides it by the factor.
    return theta * (keep + (1 - keep) / scaling.factor)


def _yarn_ramp(rotary_dim: int, base: float, scaling: RopeScaling) -> np.ndarray:
    """Rise from 0 to 1 over the pairs between beta_fast and beta_slow turns."""

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_context / times
        return rotary_dim / 2 * math.log(wavelength / (2 * math.pi), base)

    begin, end = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        begin, end = math.floor(begin), math.ceil(end)
    begin, end = max(begin, 0), min(end, rotary_dim - 1)
    width = end - begin or 0.001  # a step, where both are the same pair
    return np.clip((np.arange(rotary_dim // 2) - begin) / width, 0.0, 1.0)


def rope_attention_factor(scaling: RopeScaling) -> float:
    """Return what cosines and sines are multiplied with.

    A query and a key both have it, so scores have its square: attention over more keys stays as
    sharp as it was in training.

    Parameters
    ----------
    scaling : RopeScaling

    Returns
    -------
    float
        1 for all but yarn and longrope.
    """
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.kind not in ("yarn", "longrope") or scaling.factor <= 1:
        return 1.0
    growth = math.log(scaling.factor)
    if scaling.kind == "longrope":
        return math.sqrt(1 + growth / math.log(scaling.original_context))
    if scaling.mscale and scaling.mscale_all_dim:
        return (0.1 * scaling.mscale * growth + 1) / (0.1 * scaling.mscale_all_dim * growth + 1)
    return 0.1 * growth + 1


def rope_tables(
    frequencies: np.ndarray, num_positions: int, dtype: np.dtype, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate cosines and sines for every position.

    Parameters
    ----------
    frequencies : float64 [d/2]
    num_positions : int
        T
    dtype : dtype
        Angles are computed in float64 and rounded once, here. Of models in 16 bits, tables are
        float32 all the same: bfloat16 has 8 bits for positions that differ by one in thousands.
    factor : float
        What they are multiplied with: :func:`rope_attention_factor`.

    Returns
    -------
    cos, sin : dtype [T, d/2]
    """
    angles = np.arange(num_positions, dtype=np.float64)[:, None] * frequencies
    return (factor * np.cos(angles)).astype(dtype), (factor * np.sin(angles)).astype(dtype)


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
