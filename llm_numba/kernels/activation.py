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

from llm_numba.kernels import ptx

_GELU, _GELU_TANH, _SILU = 1, 2, 3

# None is the identity.
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "gelu": _GELU,
    "gelu_tanh": _GELU_TANH,
    "silu": _SILU,
}

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_LOG2_E = math.log2(math.e)

# erfc(|x| / sqrt 2) / 2 = exp(-x^2 / 2) t P(t) with t = 1 / (1 + 0.32 |x|). P is of degree 9, the
# lowest power first: a least-squares fit in Chebyshev polynomials, weighted anew until the largest
# relative error, over all x, was least. It is 3.2e-8, half a unit in the last place of float32.
_SLOPE = 0.32
_TAIL = (
    0.127661529,
    0.127660947,
    0.114622361,
    0.087829071,
    0.058654129,
    -0.009378067,
    0.065328886,
    -0.14670832,
    0.095407721,
    -0.021078272,
)
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8, _P9 = _TAIL


# log2 of the smaller tail, as a polynomial in |x|, the lowest power first: fitted up to 9 as P is,
# but to what 16 bits can show: x times the tail may be off by 2^-13.3 of it, or by 2^-28.3. Behind
# 9 it falls faster than the tail does.
_LOG = (-1.00014116, -1.14890023, -0.464702175, -0.0478173555, 0.00570558278, -0.000308332366)
_L0, _L1, _L2, _L3, _L4, _L5 = _LOG
_FAR = 16.0  # the power is 0 there


@cuda.jit(device=True)
def gelu_of_halves(x):
    """GELU for who rounds it to 16 bits or fewer: off by 2^-13 of it at most, or by 2^-28.

    That is a quarter of the smallest step of float16, which is 2^-11 of a number, or 2^-24. The
    logarithm of the smaller tail is nearly a parabola. So there is no quotient, and one power of 2:
    half of what :func:`gelu` asks of the special function units, and half of its instructions.
    """
    a = min(abs(x), float32(_FAR))  # infinity times a tail of 0 would be no number
    log = float32(_L5) * a + float32(_L4)
    log = log * a + float32(_L3)
    log = log * a + float32(_L2)
    log = log * a + float32(_L1)
    log = log * a + float32(_L0)
    return (float32(0) if x < float32(0) else x) - a * ptx.exp2(log)


@cuda.jit(device=True)
def gelu(x):
    r"""GELU in its exact form, :math:`x\,\Phi(x)`.

    :math:`\Phi` is found as the smaller of the two tails that x cuts off, and the other is 1 minus
    that: so it keeps its digits where it is small. ``math.erfc`` does this in some fifty
    instructions; here they are twenty.
    """
    t = ptx.reciprocal(float32(1) + float32(_SLOPE) * abs(x))
    tail = float32(_P9) * t + float32(_P8)
    tail = tail * t + float32(_P7)
    tail = tail * t + float32(_P6)
    tail = tail * t + float32(_P5)
    tail = tail * t + float32(_P4)
    tail = tail * t + float32(_P3)
    tail = tail * t + float32(_P2)
    tail = tail * t + float32(_P1)
    tail = tail * t + float32(_P0)
    tail *= t * ptx.exp2(x * x * float32(-0.5 * _LOG2_E))
    return x * (tail if x < float32(0) else float32(1) - tail)


@cuda.jit(device=True)
def gelu_tanh(x):
    r"""GELU by its tanh approximation, as :math:`(1 + \tanh u) / 2 = \sigma(2u)`."""
    inner = x + float32(0.044715) * x * x * x
    return x * ptx.reciprocal(
        float32(1) + ptx.exp2(float32(-2 * _SQRT_2_OVER_PI * _LOG2_E) * inner)
    )


@cuda.jit(device=True)
def silu(x):
    """SiLU. Where exp(-x) overflows to infinity, the quotient is the zero that is wanted."""
    return x * ptx.reciprocal(float32(1) + ptx.exp2(float32(-_LOG2_E) * x))


@cuda.jit(device=True)
def silu_mul(gate, up):
    """SiLU of the gate, times what it lets through."""
    return silu(gate) * up


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
