r"""Activation functions.

==============  ==========================================================================
GELU            :math:`x\,\Phi(x) = \tfrac{x}{2}\left(1 + \mathrm{erf}(x/\sqrt2)\right)`
GELU, tanh      :math:`\tfrac{x}{2}\left(1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3))\right)`
SiLU            :math:`x\,\sigma(x) = x / (1 + e^{-x})`
SiLU-mul        :math:`\mathrm{SiLU}(g) \cdot u`, the gate of Llama's MLP
==============  ==========================================================================

Element-wise: each number is read once and written once, so memory is the ceiling.

References
----------
Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; Shazeer, "GLU Variants Improve
Transformer", 2020.
"""

import math

import numpy as np

# NumPy has no erfc. The C library's, one number at a time, is slow and exact. Unlike 1 + erf, it
# keeps its digits where it is small.
_erfc = np.frompyfunc(math.erfc, 1, 1)


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU in its exact form.

    Parameters
    ----------
    x : float [...]

    Returns
    -------
    float [...]
    """
    return 0.5 * x * _erfc(x / -math.sqrt(2.0)).astype(x.dtype)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """GELU by its tanh approximation, "gelu_new" in GPT-2's configuration.

    Parameters
    ----------
    x : float [...]

    Returns
    -------
    float [...]
    """
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def silu(x: np.ndarray) -> np.ndarray:
    r"""SiLU, also called swish.

    Parameters
    ----------
    x : float [...]

    Returns
    -------
    float [...]

    Notes
    -----
    Written as :math:`x/2 \cdot (1 + \tanh(x/2))`, the same function: :math:`e^{-x}` would
    overflow for large negative x. The error is a few units in the last place of x, so in
    float32 the tail below about -15 is rounding noise.
    """
    half = 0.5 * x
    return half + half * np.tanh(half)


def silu_mul(gate_up: np.ndarray) -> np.ndarray:
    """Apply the gate of a gated MLP: SiLU(gate) times up.

    Parameters
    ----------
    gate_up : float [..., 2F]
        Gate in the first half of the last axis, up in the second: the output of one product with
        both weight matrices stacked.

    Returns
    -------
    float [..., F]
    """
    width = gate_up.shape[-1] // 2
    return silu(gate_up[..., :width]) * gate_up[..., width:]
