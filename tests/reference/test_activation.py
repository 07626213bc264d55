"""Activations against the C library's functions, one number at a time.

Each is written as x times a gate between 0 and 1 that is 1 plus something, rounded at 1; so the
error is a few units in the last place of x, not of the result, whose tail for negative x is lost.
"""

import math

import numpy as np
import pytest

from llm_numba import reference

FORMULAS = {
    "gelu": lambda v: v * math.erfc(-v / math.sqrt(2)) / 2,
    "gelu_tanh": lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1 + math.exp(-v)),
}
floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_activation = pytest.mark.parametrize("name", FORMULAS)


@floats
@each_activation
def test_the_formula_holds_to_a_few_units_in_the_last_place_of_x(name, dtype):
    x = np.concatenate([np.linspace(-40, 40, 1031), [0.0, -0.0, 1e-30, -1e-30]]).astype(dtype)
    y = getattr(reference, name)(x)
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    for value, result in zip(x.tolist(), y.tolist(), strict=True):
        assert abs(result - FORMULAS[name](value)) <= 8 * u * abs(value)


@pytest.mark.parametrize(
    ("name", "at_one"),
    # Phi(1) = 0.8413447460685429; the sigmoid of 1 is 0.7310585786300049.
    [("gelu", 0.8413447460685429), ("gelu_tanh", 0.8411919906), ("silu", 0.7310585786300049)],
)
def test_known_values_at_one(name, at_one):
    y = getattr(reference, name)(np.array([1.0, 0.0]))
    assert y[0] == pytest.approx(at_one, abs=1e-10)
    assert y[1] == 0


def test_the_two_gelus_differ_by_at_most_half_a_thousandth():
    x = np.linspace(-10, 10, 2001)
    difference = np.abs(reference.gelu(x) - reference.gelu_tanh(x)).max()
    assert 1e-4 < difference < 5e-4


@floats
@each_activation
@pytest.mark.parametrize("size", [50.0, 1e4, 1e12])
def test_large_numbers_pass_or_vanish_without_overflow(name, dtype, size):
    positive, negative = getattr(reference, name)(np.array([size, -size], dtype))
    assert positive == dtype(size)
    assert negative == 0


@each_activation
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (2, 31, 5)])
def test_any_shape_is_kept_and_the_operand_left_alone(name, shape):
    x = np.random.default_rng(0).normal(size=shape)
    before = x.copy()
    y = getattr(reference, name)(x)
    assert y.shape == shape
    np.testing.assert_array_equal(x, before)
    flat = getattr(reference, name)(x.ravel())
    np.testing.assert_array_equal(y.ravel(), flat)


@each_activation
def test_nan_stays_where_it_is(name):
    y = getattr(reference, name)(np.array([1.0, np.nan, -1.0]))
    assert np.isnan(y).tolist() == [False, True, False]


@floats
@pytest.mark.parametrize("shape", [(1, 2), (0, 6), (31, 66), (2, 3, 254)])
def test_the_gate_is_the_first_half_and_multiplies_the_second(shape, dtype):
    gate_up = np.random.default_rng(1).normal(scale=3, size=shape).astype(dtype)
    y = reference.silu_mul(gate_up)
    width = shape[-1] // 2
    assert y.shape == (*shape[:-1], width)
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    for row, result in zip(gate_up.reshape(-1, shape[-1]), y.reshape(-1, width), strict=True):
        for i in range(width):
            gate, up = float(row[i]), float(row[width + i])
            error = abs(float(result[i]) - FORMULAS["silu"](gate) * up)
            assert error <= 10 * u * abs(gate * up)
