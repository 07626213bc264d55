"""Division of 32 bits, and pairs that are rounded now and stored later."""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda
from numba.cuda import types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem


@cuda.jit
def divide(numbers, divisors, out):
    t = cuda.threadIdx.x
    out[t] = ptx.quotient(numbers[t], divisors[t])


def test_quotients_are_rounded_down(device):
    numbers = np.array([0, 1, 7, 8, 2**31 - 1, 2**31 - 1, 100, 131], np.int64)
    divisors = np.array([1, 2, 8, 8, 1, 2**31 - 1, 7, 132], np.int64)
    on_device = [runtime.to_device(each, device) for each in (numbers, divisors, 0 * numbers)]
    runtime.launch(divide, 1, 8, tuple(on_device))
    np.testing.assert_array_equal(runtime.to_host(on_device[2]), numbers // divisors)


@cuda.jit
def round_and_store(values, out):
    t = cuda.threadIdx.x
    pair = ptx.round_pair(out, values[2 * t], values[2 * t + 1])
    ptx.store_rounded(out, 2 * t, pair)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_pairs_are_rounded_as_numbers_are(dtype, device):
    values = np.random.default_rng(0).normal(size=64).astype(np.float32)
    values[:4] = np.inf, 1e-30, -0.0, 65520
    x = runtime.to_device(values, device)
    out = runtime.to_device(np.zeros(64, dtype), device)
    if dtype == "bfloat16" and not runtime.has_capability(x, (8, 0)):
        pytest.skip("this GPU rounds bfloat16 by other instructions, tested elsewhere")
    runtime.launch(round_and_store, 1, 32, (x, out))
    with np.errstate(over="ignore"):
        want = values.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    np.testing.assert_array_equal(runtime.to_host(out).view(np.uint16), want.view(np.uint16))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_they_take_few_instructions():
    signature = (types.int64[::1], types.int64[::1], types.int64[::1])
    text = compile_to_ptx(divide, signature, (7, 5))
    assert "div.u32" in text
    assert "div.s64" not in text
    signature = (types.float32[::1], types.uint16[::1])
    text = compile_to_ptx(round_and_store, signature, (9, 0))
    assert "cvt.rn.bf16x2.f32" in text
    assert "st.global.u32" in text or "st.global.b32" in text
    assemble(text, (9, 0))
