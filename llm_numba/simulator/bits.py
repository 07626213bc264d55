"""Bits of integers and of floating-point numbers, over registers."""

from typing import Any

import numpy as np

from llm_numba.simulator.values import INT64, UINT64, widen, wrap

_REVERSED_BYTE = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)
_HALF = np.uint64(0xFFFFFFFF)


def as_integer(value: Any, size: int, signed: bool) -> Any:
    """Read the lowest bits of a register as an integer of some size."""
    if size == 64:
        return value.astype(INT64 if signed else UINT64)
    return wrap(value, size, signed)


def pattern(value: Any, size: int) -> Any:
    """Return the lowest bits of a register as a uint64."""
    return value.astype(f"u{size // 8}").astype(UINT64)


def of_float(value: Any, dtype: Any) -> Any:
    """Read a floating-point number's bits as an integer."""
    return widen(value.view(dtype))


def to_float(value: Any, integer: Any, dtype: Any) -> Any:
    """Read an integer's bits as a floating-point number."""
    return value.astype(integer).view(dtype)


def sign_extend(value: Any, size: int) -> Any:
    """Read the lowest bits as a signed integer."""
    shift = np.int64(64 - size)
    return value << shift >> shift


def population(value: Any, size: int) -> Any:
    """Count the bits that are set."""
    return np.bitwise_count(pattern(value, size)).astype(INT64)


def leading_zeros(value: Any, size: int) -> Any:
    """Count the zeros above the highest bit that is set."""
    filled = pattern(value, size)
    for step in (1, 2, 4, 8, 16, 32):
        filled = filled | filled >> UINT64.type(step)
    return np.int64(size) - np.bitwise_count(filled).astype(INT64)


def first_set(value: Any, size: int) -> Any:
    """Return the place of the lowest bit that is set, counted from 1; 0 if there is none."""
    raw = pattern(value, size)
    below = raw ^ (raw - UINT64.type(1))
    return np.where(raw == 0, 0, np.bitwise_count(below)).astype(INT64)[()]


def reverse(value: Any, size: int) -> Any:
    """Put the bits in reverse order."""
    raw = np.asarray(value.astype(f"u{size // 8}"))
    octets = np.ascontiguousarray(raw.reshape(*raw.shape, 1)).view(np.uint8)[..., ::-1]
    return widen(np.ascontiguousarray(_REVERSED_BYTE[octets]).view(raw.dtype)[..., 0])[()]


def permute_bytes(low: Any, high: Any, selector: Any) -> Any:
    """Choose four of eight bytes; three bits of each digit of the selector say which."""
    both = low.astype(UINT64) | high.astype(UINT64) << UINT64.type(32)
    result = np.int64(0)
    for place in range(4):
        choice = selector >> np.int64(4 * place) & 7
        octet = both >> (8 * choice).astype(UINT64) & UINT64.type(0xFF)
        result = result | octet.astype(INT64) << np.int64(8 * place)
    return result


def multiply_high_unsigned(a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the product of uint64."""
    half = UINT64.type(32)
    low_a, high_a, low_b, high_b = a & _HALF, a >> half, b & _HALF, b >> half
    middle = high_a * low_b + (low_a * low_b >> half)
    carry = (middle & _HALF) + low_a * high_b
    return high_a * high_b + (middle >> half) + (carry >> half)


def multiply_high(a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the product of int64."""
    high = multiply_high_unsigned(a.astype(UINT64), b.astype(UINT64)).astype(INT64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)
