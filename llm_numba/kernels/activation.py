r"""Activation functions of one number, for use inside kernels.

Twins of :mod:`llm_numba.reference.activation` in float32. A kernel that has its result in a
register applies them there: an activation of its own would read and write all of memory again.

==============  ==========================================================================
GELU            :math:`x\,\Phi(x) = \tfrac{x}{2}\,\mathrm{erfc}(-x/\sqrt2)`
GELU, tanh      :math:`\tfrac{x}{2}\left(1 + \tanh(\sqrt{2/\pi}\,(x + 0.044715\,x^3))\right)`
SiLU            :math:`x\,\sigma(x) = x / (1 + e^{-x})`
==============  ==========================================================================

A kernel takes an activation as an integer, :data:`ACTIVATIONS`: all threads go the same way, so
the branch costs next to nothing.

References
----------
Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; Elfwing, Uchibe and Doya,
"Sigmoid-Weighted Linear Units", 2017.
"""

import math

from numba import cuda, float32
from numba.cuda import libdevice

from llm_numba.kernels import ptx

_GELU, _GELU_TANH, _SILU = 1, 2, 3

# None is the identity.
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "gelu": _GELU,
    "gelu_tanh": _GELU_TANH,
    "silu": _SILU,
}

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_LOG2_E = math.log2(math.e)


@cuda.jit(device=True)
def gelu(x):
    """GELU in its exact form. Unlike 1 + erf, erfc keeps its digits where it is small."""
    return float32(0.5) * x * math.erfc(-float32(_SQRT_HALF) * x)


@cuda.jit(device=True)
def gelu_tanh(x):
    """GELU by its tanh approximation."""
    inner = float32(_SQRT_2_OVER_PI) * (x + float32(0.044715) * x * x * x)
    return float32(0.5) * x * (float32(1) + math.tanh(inner))


@cuda.jit(device=True)
def silu(x):
    """SiLU. Where exp(-x) overflows to infinity, the quotient is the zero that is wanted."""
    return x / (float32(1) + math.exp(-x))


@cuda.jit(device=True)
def fast_silu(x):
    r"""SiLU by the approximations of the hardware: six instructions where :func:`silu` has thirty.

    With u = 2**-24: the exponent carries two roundings, so a relative error of 2 abs(x) u in the
    power, beside the 3 u of ``ex2.approx``; the quotient adds 4 u, the sum 1. All in all at most
    (2 abs(x) + 8) u of the result: a hundredth of what rounding to bfloat16 costs, wherever the
    result is more than a rounding error of the products that made x. From x = -87.3 down it is 0.

    Source: "CUDA C++ Programming Guide", "Intrinsic Functions" (``__fdividef``).
    """
    return libdevice.fast_fdividef(x, float32(1) + ptx.exp2(-float32(_LOG2_E) * x))


@cuda.jit(device=True)
def activate(x, activation):
    """Apply the activation of that number in :data:`ACTIVATIONS`."""
    if activation == _GELU:
        return gelu(x)
    if activation == _GELU_TANH:
        return gelu_tanh(x)
    if activation == _SILU:
        return silu(x)
    return x
