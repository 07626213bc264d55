"""The activation functions of kernels against the reference in float64.

Bounds in units u = 2^-24 of float32. Powers of 2 are right to 4 u and reciprocals to 2 u, and a
power changes, relatively, by as much as the natural logarithm of it is off:

GELU        exp(-x^2/2) has x^2, the constant and their product rounded: 3 u of x^2/2; the
            polynomial, its argument, the power and the products take the rest
GELU, tanh  measured against x, not the result: where the factor of x is small, digits are lost
SiLU        exp(-x) has the constant and the product rounded: 2 u of x; the rest loses nothing
"""

import numpy as np
import pytest
from numba import cuda

from llm_numba import reference
from llm_numba.kernels.activation import ACTIVATIONS, activate, gelu_of_halves
from llm_numba.runtime import empty_like, launch, to_device, to_host

U = 2.0**-24

BOUNDS = {
    "gelu": lambda x, truth: (16 + 3 * x**2) * U * np.abs(truth),
    "gelu_tanh": lambda x, truth: 8 * U * np.abs(x),
    "silu": lambda x, truth: (10 + 2 * np.abs(x)) * U * np.abs(truth),
}


@cuda.jit
def activate_all(x, activation, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = activate(x[i], activation)


def run(x, activation, device):
    x = to_device(x, device)
    y = empty_like(x)
    launch(activate_all, -(-x.size // 128), 128, (x, ACTIVATIONS[activation], y))
    return to_host(y)


@pytest.mark.parametrize("activation", BOUNDS)
def test_an_activation_is_the_reference(activation, device):
    x = np.concatenate([np.linspace(-9, 9, 721), [0, 1e-30, -1e-30, 40, 100]]).astype(np.float32)
    truth = getattr(reference, activation)(x.astype(np.float64))
    error = np.abs(run(x, activation, device).astype(np.float64) - truth)
    bound = BOUNDS[activation](x.astype(np.float64), truth) + np.finfo(np.float32).tiny
    assert (error <= bound).all(), x[(error / bound).argmax()]


@cuda.jit
def gelu_all(x, y):
    i = cuda.grid(1)
    y[i] = gelu_of_halves(x[i])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gelu_of_halves_is_right_to_a_quarter_of_a_step_for_each_half_that_there_is(dtype, device):
    """A step of float16 is at least 2^-11 of a number, and 2^-24 where they are subnormal."""
    x = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    finite = np.isfinite(x)
    there = to_device(x, device)
    y = empty_like(there)
    launch(gelu_all, 64, 1024, (there, y))
    y = to_host(y)
    truth = reference.gelu(x[finite].astype(np.float64))
    error = np.abs(y[finite] - truth)
    assert (error <= np.maximum(2.0**-13 * np.abs(truth), 2.0**-28)).all()
    np.testing.assert_array_equal(y[np.isposinf(x)], np.inf)
    np.testing.assert_array_equal(y[np.isneginf(x)], 0)
    assert np.isnan(y[np.isnan(x)]).all()


@pytest.mark.parametrize("activation", BOUNDS)
def test_far_from_zero_it_is_zero_or_the_identity(activation, device):
    x = np.array([-200, -np.float32(3e38), 200, np.float32(3e38), np.inf], np.float32)
    y = run(x, activation, device)
    np.testing.assert_array_equal(y, [0, 0, *x[2:]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays(activation, device):
    assert np.isnan(run(np.array([np.nan], np.float32), activation, device)).all()


def test_none_is_the_identity(device):
    x = np.arange(-3, 4, dtype=np.float32)
    np.testing.assert_array_equal(run(x, None, device), x)
