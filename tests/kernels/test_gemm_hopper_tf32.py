"""Products of float32 by tf32: exact where 10 bits are enough, near where they are not."""

import numpy as np
import pytest
from numba.cuda import types

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.gemm_hopper import LARGE
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_tf32 import gemm_tf32
from llm_numba.runtime import is_architecture, to_device, to_host
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.signature import TENSOR_MAP

HOPPER = (9, 0, "a")


def run(x, weight, device):
    x, weight = to_device(x, device), to_device(weight, device)
    if not is_architecture(x, HOPPER[:2]):
        pytest.skip("this GPU is not of compute capability 9.0")
    return to_host(gemm_tf32(x, weight))


@pytest.mark.parametrize(("M", "N", "K"), [(1, 1, 4), (130, 263, 36)])
def test_whole_numbers_are_multiplied_exactly(M, N, K, device):
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(-1023, 1024, (rows, K)).astype(np.float32) for rows in (M, N))
    np.testing.assert_array_equal(run(x, weight, device), x.astype(float) @ weight.T.astype(float))


def test_operands_lose_13_bits_and_no_more(device):
    """Each operand is off by up to 2^-10 of itself, and each of 100 sums by up to 2^-23 of all."""
    rng = np.random.default_rng(1)
    x, weight = (rng.normal(size=(rows, 100)).astype(np.float32) for rows in (65, 70))
    y, truth = run(x, weight, device), x.astype(float) @ weight.T.astype(float)
    magnitudes = np.abs(x).astype(float) @ np.abs(weight).T.astype(float)
    error = np.abs(y - truth)
    assert (error <= (2 * 2.0**-10 + 101 * 2.0**-23) * magnitudes).all()
    assert error.max() > 2.0**-16 * magnitudes.max()


@pytest.mark.parametrize("K", [5, 6])
def test_rows_that_the_engine_cannot_address_are_refused(K):
    x, weight = (to_device(np.zeros((3, K), np.float32), "sim") for _ in range(2))
    with pytest.raises(KernelArgumentError, match="no multiple of 4"):
        gemm_tf32(x, weight)


def test_other_formats_are_refused():
    x = to_device(np.zeros((8, 8), np.float16), "sim")
    with pytest.raises(KernelArgumentError, match="float32"):
        gemm_tf32(x, x)


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_it_is_the_same_kernel_with_another_instruction():
    floats = types.float32[:, ::1]
    numbers = types.int64, floats, types.int64, types.boolean, types.float32[::1], floats
    text = compile_to_ptx(specialised("tf32", LARGE), (TENSOR_MAP, TENSOR_MAP, *numbers), HOPPER)
    assert text.count("wgmma.mma_async.sync.aligned.m64n256k8.f32.tf32.tf32") == 4
    assert ".local" not in text
    assert "0 bytes spill stores" in assemble(text, HOPPER)
