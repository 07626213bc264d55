"""From one format to another: the reference's bits, whatever is converted."""

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.convert import convert
from llm_numba.runtime import to_device, to_host, zeros

FORMATS = ["float32", "float16", "bfloat16"]


def numbers(stored):
    """Of all sizes: too small and too large for 16 bits, ties, both infinities and zeros."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=300) * 10.0 ** rng.integers(-30, 30, 300)
    ties = 1 + np.arange(40) / 2**12
    edges = [0, -0.0, np.inf, -np.inf, 65504, 65519, 65520, 2.0**-24, 2.0**-25, 3.4e38, 1e-40]
    with np.errstate(over="ignore"):
        return np.concatenate([wide, ties, edges]).astype(np.float32).astype(stored)


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_it_rounds_as_the_reference_does(stored, dtype, device):
    x = numbers(stored)
    out = zeros(x.shape, dtype, device)
    assert convert(to_device(x, device), out) is out
    expected = reference.convert(x, np.empty(x.shape, dtype))
    np.testing.assert_array_equal(to_host(out).view("u1"), expected.view("u1"))


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (257, 2)])
def test_any_shape(shape, device):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    out = convert(to_device(x, device), zeros(shape, "float16", device))
    np.testing.assert_array_equal(to_host(out), x.astype(np.float16))


def test_another_shape_and_integers_are_refused(device):
    x = to_device(np.zeros((2, 3), np.float32), device)
    with pytest.raises(KernelArgumentError, match="'out' has shape"):
        convert(x, zeros((3, 2), "float16", device))
    with pytest.raises(KernelArgumentError, match="'out' has dtype int32"):
        convert(x, zeros((2, 3), "int32", device))
