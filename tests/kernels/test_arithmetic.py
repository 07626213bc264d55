"""Sums and products of arrays: exact in float32, then rounded once, as NumPy rounds them."""

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.arithmetic import add, multiply
from llm_numba.runtime import to_device, to_host

each_function = pytest.mark.parametrize("function", [add, multiply], ids=lambda each: each.__name__)


def numbers(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@each_function
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(3,), (7, 31), (2, 3, 64), (1, 4099), (0, 8)])
def test_each_number_is_the_reference_s_rounded_once(shape, dtype, function, device):
    x, y = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    twin = getattr(reference, function.__name__)
    expected = twin(x.astype(np.float32), y.astype(np.float32)).astype(dtype)
    result = to_host(function(to_device(x, device), to_device(y, device)))
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@each_function
def test_arrays_may_begin_anywhere_and_the_result_may_replace_one(function, device):
    memory = to_device(numbers(2, 301), device)
    x, y = memory[0, 1:], memory[1]
    expected = to_host(function(to_device(to_host(x), device), to_device(to_host(y)[1:], device)))
    assert function(x, y[1:], out=x) is x
    np.testing.assert_array_equal(to_host(x), expected)


@each_function
def test_wrong_arguments_are_named(function, device):
    x = to_device(numbers(4, 8), device)
    for changes, words in [
        ({"y": to_device(numbers(8), device)}, "'y' has shape"),
        ({"y": to_device(numbers(4, 8, dtype="float16"), device)}, "'y' has dtype"),
        ({"out": to_device(numbers(8, 4), device)}, "'out' has shape"),
        ({"x": to_device(np.zeros((4, 8), np.int32), device)}, "'x' has dtype"),
    ]:
        with pytest.raises(KernelArgumentError, match=words):
            function(**({"x": x, "y": x} | changes))
