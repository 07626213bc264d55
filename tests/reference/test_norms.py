"""Norms against sums written out one number at a time, and against what they must not see.

RMSNorm adds positive numbers only, so its relative error is at most that of a sum of E terms,
halved by the square root, plus a handful of roundings. LayerNorm subtracts a mean first, which
costs (E + 8) u of the row's largest number, seen in units of the row's standard deviation.
"""

import math

import numpy as np
import pytest

from llm_numba import reference

floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_shape = pytest.mark.parametrize(
    "shape", [(1, 1), (0, 7), (3, 31), (1, 33), (5, 127), (2, 257), (2, 3, 8)]
)


def operands(shape, dtype, offset=0.0):
    rng = np.random.default_rng(list(shape))
    x = rng.normal(offset, 2, size=shape)
    weight, bias = rng.normal(1, 0.5, size=(2, shape[-1]))
    return x.astype(dtype), weight.astype(dtype), bias.astype(dtype)


def true_rms_norm(row, weight, eps):
    root = math.sqrt(math.fsum(v * v for v in row) / len(row) + eps)
    return [v / root * w for v, w in zip(row, weight, strict=True)]


def true_layer_norm(row, weight, bias, eps):
    mean = math.fsum(row) / len(row)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in row) / len(row) + eps)
    terms = zip(row, weight, bias, strict=True)
    return [(v - mean) / deviation * w + b for v, w, b in terms], deviation


def as_rows(x):
    return x.reshape(-1, x.shape[-1]).astype(float).tolist()


@floats
@each_shape
def test_rms_norm_divides_each_row_by_its_root_mean_square(shape, dtype):
    x, weight, _ = operands(shape, dtype)
    y = reference.rms_norm(x, weight, 1e-5)
    assert y.shape == shape
    assert y.dtype == dtype
    bound = (shape[-1] / 2 + 4) * float(np.finfo(dtype).eps) / 2
    for row, result in zip(as_rows(x), as_rows(y), strict=True):
        truth = true_rms_norm(row, weight.astype(float).tolist(), 1e-5)
        assert result == pytest.approx(truth, rel=bound, abs=0)


@floats
@each_shape
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_gives_each_row_mean_0_and_variance_1(shape, offset, dtype):
    x, weight, bias = operands(shape, dtype, offset)
    y = reference.layer_norm(x, weight, bias, 1e-5)
    assert y.shape == shape
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    scale, shift = weight.astype(float).tolist(), bias.astype(float).tolist()
    for row, result in zip(as_rows(x), as_rows(y), strict=True):
        truth, deviation = true_layer_norm(row, scale, shift, 1e-5)
        largest = max(map(abs, row)) / deviation
        for i, value in enumerate(truth):
            spread = abs(scale[i]) * (1 + abs(value - shift[i]) / abs(scale[i]))
            bound = (shape[-1] + 8) * u * largest * spread + 4 * u * abs(shift[i])
            assert abs(result[i] - value) <= bound


def test_layer_norm_keeps_its_digits_far_from_zero():
    # The one-pass variance E[x^2] - E[x]^2 has none left here: 10^8 against 1 in 2^24.
    x = np.random.default_rng(0).normal(1e4, 1, size=(1, 1024)).astype(np.float32)
    ones, zeros = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    y = reference.layer_norm(x, ones, zeros, 1e-5)
    # Two passes lose only what the mean's own rounding loses: 10^4 u = 6e-4, at most a few times.
    truth, _ = true_layer_norm(as_rows(x)[0], ones.tolist(), zeros.tolist(), 1e-5)
    assert np.abs(y[0] - truth).max() < 3e-3


def test_the_size_of_a_row_does_not_matter_to_either_norm():
    x, weight, bias = operands((4, 33), np.float64)
    for factor in (1e-6, 7.0, 1e6):
        np.testing.assert_allclose(
            reference.rms_norm(factor * x, weight, 0.0),
            reference.rms_norm(x, weight, 0.0),
            rtol=1e-13,
        )
        np.testing.assert_allclose(
            reference.layer_norm(factor * x, weight, bias, 0.0),
            reference.layer_norm(x, weight, bias, 0.0),
            rtol=1e-9,
        )


def test_a_shift_matters_to_rms_norm_and_not_to_layer_norm():
    x, weight, bias = operands((4, 33), np.float64)
    shifted, still = (reference.layer_norm(x + c, weight, bias, 1e-5) for c in (5, 0))
    np.testing.assert_allclose(shifted, still, rtol=1e-9)
    rms = reference.rms_norm(x, weight, 1e-5)
    assert np.abs(reference.rms_norm(x + 5, weight, 1e-5) - rms).max() > 0.1


def test_eps_is_added_under_the_root():
    # Mean square 3, variance 0; with eps 1 the roots are of 4 and of 1.
    x, ones = np.full((1, 3), math.sqrt(3.0)), np.ones(3)
    np.testing.assert_allclose(reference.rms_norm(x, ones, 1.0), x / 2, rtol=1e-15)
    two = np.array([[-1.0, 1.0]])
    np.testing.assert_allclose(
        reference.layer_norm(two, np.ones(2), np.zeros(2), 3.0), two / 2, rtol=1e-15
    )


def test_a_row_of_zeros_gives_zeros_and_the_bias():
    x, weight, bias = np.zeros((2, 5)), np.ones(5), np.arange(5.0)
    assert reference.rms_norm(x, weight, 1e-6).tolist() == x.tolist()
    assert reference.layer_norm(x, weight, bias, 1e-6).tolist() == [bias.tolist()] * 2


def test_nan_and_infinity_stay_in_their_row():
    x = np.ones((3, 4))
    x[1, 2] = np.nan
    ones, zeros = np.ones(4), np.zeros(4)
    for y in (reference.rms_norm(x, ones, 0.0), reference.layer_norm(x, ones, zeros, 1.0)):
        assert np.isnan(y).all(axis=1).tolist() == [False, True, False]
        assert np.isfinite(y[[0, 2]]).all()


@floats
def test_the_fused_forms_return_the_sum_and_its_norm(dtype):
    x, weight, bias = operands((3, 31), dtype)
    residual = operands((3, 31), dtype, offset=1.0)[0][::-1]
    before = x.copy(), residual.copy()
    total = x + residual
    normed, stream = reference.add_rms_norm(x, residual, weight, 1e-5)
    np.testing.assert_array_equal(stream, total)
    np.testing.assert_array_equal(normed, reference.rms_norm(total, weight, 1e-5))
    normed, stream = reference.add_layer_norm(x, residual, weight, bias, 1e-5)
    np.testing.assert_array_equal(stream, total)
    np.testing.assert_array_equal(normed, reference.layer_norm(total, weight, bias, 1e-5))
    assert stream.dtype == normed.dtype == dtype
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(residual, before[1])


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_an_activation_may_follow_the_norm_and_leaves_the_sum_alone(activation):
    x, weight, bias = operands((3, 31), np.float64)
    follow = getattr(reference, activation)
    for norm, rows in (("layer", (weight, bias)), ("rms", (weight,))):
        plain, fused = (getattr(reference, f"{add}{norm}_norm") for add in ("", "add_"))
        expected = follow(plain(x, *rows, 1e-5))
        np.testing.assert_array_equal(plain(x, *rows, 1e-5, activation), expected)
        expected, total = fused(x, x[::-1], *rows, 1e-5)
        normed, stream = fused(x, x[::-1], *rows, 1e-5, activation)
        np.testing.assert_array_equal(normed, follow(expected))
        np.testing.assert_array_equal(stream, total)
