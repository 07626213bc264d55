"""Mathematical functions that NumPy lacks, on float64."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from llm_numba.simulator.rounding import two_product

_ROOT_HALF = math.sqrt(0.5)
_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)
_NORMAL = NormalDist()


def _elementwise(function: Callable[[float], float]) -> Callable[[Any], Any]:
    """Let a function of one number take an array of them."""
    compute = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(compute(x), np.float64)[()]


def _gamma(x: float) -> float:
    if x == 0:
        return math.copysign(math.inf, x)
    try:
        return math.gamma(x)
    except ValueError:  # a pole
        return math.nan
    except OverflowError:
        return math.inf


def _log_gamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except (ValueError, OverflowError):
        return math.inf


def _scaled_erfc(x: float) -> float:
    if x < -27:
        return math.inf
    if x < 25:
        square, low = two_product(x, x)
        return math.erfc(x) * math.exp(square) * (1 + low)
    # The asymptotic series; its terms shrink until long after they cease to count.
    term, total = 1.0, 1.0
    for k in range(1, 12):
        term *= -(2 * k - 1) / (2 * x * x)
        total += term
    return total / x / math.sqrt(math.pi)


def _inverse(
    function: Callable[[float], float], slope: Callable[[float], float], target: float, guess: float
) -> float:
    """Improve a root of ``function(x) = target`` by Newton's method."""
    for _ in range(3):
        step = slope(guess)
        if step == 0:
            return guess
        guess -= (function(guess) - target) / step
    return guess


def _erf_slope(x: float) -> float:
    return _TWO_OVER_ROOT_PI * math.exp(-x * x)


def _erfinv(y: float) -> float:
    if not -1 < y < 1:
        return math.copysign(math.inf, y) if abs(y) == 1 else math.nan
    if abs(y) > 0.5:
        return math.copysign(_erfcinv(1 - abs(y)), y)
    guess = _ROOT_HALF * _NORMAL.inv_cdf((1 + y) / 2)
    return _inverse(math.erf, _erf_slope, y, guess)


def _erfcinv(y: float) -> float:
    if not 0 < y < 2:
        return {0.0: math.inf, 2.0: -math.inf}.get(y, math.nan)
    if y > 1:
        return -_erfcinv(2 - y)
    guess = -_ROOT_HALF * _NORMAL.inv_cdf(max(y / 2, 5e-324))
    return _inverse(math.erfc, lambda x: -_erf_slope(x), y, guess)


def _normal_quantile(p: float) -> float:
    return -math.sqrt(2) * _erfcinv(2 * p)


erf = _elementwise(math.erf)
erfc = _elementwise(math.erfc)
erfcx = _elementwise(_scaled_erfc)
erfinv = _elementwise(_erfinv)
erfcinv = _elementwise(_erfcinv)
gamma = _elementwise(_gamma)
log_gamma = _elementwise(_log_gamma)
normal_cdf = _elementwise(lambda x: 0.5 * math.erfc(-x * _ROOT_HALF))
normal_quantile = _elementwise(_normal_quantile)


def exp10(x: Any) -> Any:
    """Return ten to the power x."""
    return np.power(10.0, x)


def reciprocal_root(x: Any) -> Any:
    """Return one over the square root."""
    return 1.0 / np.sqrt(x)


def binary_exponent(x: Any) -> Any:
    """Return the exponent of the leading bit, as a float: ``logb``."""
    exponent = np.frexp(x)[1] - 1.0
    exponent = np.where(x == 0, -np.inf, exponent)
    return np.where(np.isfinite(x), exponent, np.abs(x))


def round_half_away(x: Any) -> Any:
    """Round to the nearest integer, halves away from zero."""
    whole = np.trunc(x)
    up = np.abs(x - whole) >= 0.5
    return np.copysign(np.where(up, whole + np.copysign(1.0, x), whole), x)


def _half_turns(x: Any) -> tuple[Any, Any]:
    """Split an angle in half turns into the nearest quarter and what remains."""
    quarter = np.rint(2 * np.fmod(x, 2.0))
    return quarter.astype(np.int64) & 3, np.fmod(x, 2.0) - quarter / 2


def sin_pi(x: Any) -> Any:
    """Return sin(pi x), exact at its zeros."""
    x = np.where(np.isfinite(x), x, np.nan)
    quarter, rest = _half_turns(np.where(np.isnan(x), 0.0, x))
    sine, cosine = np.sin(np.pi * rest), np.cos(np.pi * rest)
    value = np.select([quarter == 0, quarter == 1, quarter == 2], [sine, cosine, -sine], -cosine)
    value = np.where(x == np.trunc(x), np.copysign(0.0, x), value)
    return np.where(np.isnan(x), x, value)


def cos_pi(x: Any) -> Any:
    """Return cos(pi x), exact at its zeros."""
    x = np.where(np.isfinite(x), x, np.nan)
    quarter, rest = _half_turns(np.where(np.isnan(x), 0.0, x))
    sine, cosine = np.sin(np.pi * rest), np.cos(np.pi * rest)
    value = np.select([quarter == 0, quarter == 1, quarter == 2], [cosine, -sine, -cosine], sine)
    return np.where(np.isnan(x), x, value + 0.0)


def remainder_and_quotient(x: Any, y: Any) -> tuple[Any, Any]:
    """Return the IEEE remainder, and the lowest three bits of the rounded quotient, signed.

    The quotient is reduced modulo 8 first, by ``fmod``, which is exact.
    """
    divisor = np.abs(y)
    huge = divisor > 2.0**1020
    rest = np.abs(np.where(huge, x, np.fmod(x, 8 * divisor)))
    count = np.zeros(np.shape(rest), np.int64)
    for weight in (4, 2, 1):
        over = rest >= weight * divisor
        rest = np.where(over, rest - weight * divisor, rest)
        count = count + weight * over
    half = rest - (divisor - rest)
    up = (half > 0) | ((half == 0) & (count & 1 == 1))
    rest = np.where(up & np.isfinite(divisor), rest - divisor, rest)
    count = (count + (up & np.isfinite(divisor))) & 7
    rest = np.where(np.signbit(x), -rest, rest)
    invalid = np.isnan(x) | np.isnan(y) | np.isinf(x) | (y == 0)
    negative = np.signbit(x) != np.signbit(y)
    count = np.where(invalid, 0, np.where(negative, -count, count))
    return np.where(invalid, np.nan, rest), count


def remainder(x: Any, y: Any) -> Any:
    """Return the IEEE remainder."""
    return remainder_and_quotient(x, y)[0]


def positive_difference(x: Any, y: Any) -> Any:
    """Return x - y where that is positive, else 0: ``fdim``."""
    return np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(x > y, x - y, 0.0))


def saturate(x: Any) -> Any:
    """Hold a number between 0 and 1; NaN gives 0."""
    return np.where(x > 0, np.minimum(x, 1.0), 0.0)


def least(x: Any, y: Any) -> Any:
    """Return the smaller number; a number rather than NaN, and -0 rather than 0."""
    return np.where((x == y) & np.signbit(x), x, np.fmin(x, y))[()]


def greatest(x: Any, y: Any) -> Any:
    """Return the larger number; a number rather than NaN, and 0 rather than -0."""
    return np.where((x == y) & np.signbit(y), x, np.fmax(x, y))[()]
