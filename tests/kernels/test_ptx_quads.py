"""Four numbers in one access, of every storage format."""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, float32, types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import OutOfBoundsError

DTYPES = ["float32", "float16", "bfloat16", "int32"]


@cuda.jit
def widen_quads(x, out):
    i = cuda.grid(1) * 4
    if i < x.size:
        values = ptx.load_quad(x, i)
        for k in range(4):
            out[i + k] = values[k]


@cuda.jit
def through_shared(x, out):
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    for k in range(4):
        tile[4 * t + k] = x[4 * t + k]
    cuda.syncthreads()
    values = ptx.load_quad(tile, 4 * (15 - t))
    for k in range(4):
        out[4 * t + k] = values[k]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_quad_is_four_elements_in_order(dtype, device):
    x = np.random.default_rng(0).integers(-99, 99, 72).astype(dtype)
    out = runtime.to_device(np.zeros(72, "int32" if dtype == "int32" else "float32"), device)
    runtime.launch(widen_quads, 1, 32, (runtime.to_device(x, device), out))
    np.testing.assert_array_equal(runtime.to_host(out), x.astype(out.dtype))


def test_a_quad_comes_out_of_shared_memory(device):
    x = np.arange(64, dtype=np.float32)
    out = runtime.to_device(np.zeros(64, np.float32), device)
    runtime.launch(through_shared, 1, 16, (runtime.to_device(x, device), out))
    np.testing.assert_array_equal(runtime.to_host(out), x.reshape(16, 4)[::-1].ravel())


def test_the_simulator_holds_a_quad_to_its_array():
    x, out = np.zeros(6, np.float32), np.zeros(8, np.float32)
    with pytest.raises(OutOfBoundsError, match="thread 1 of block 0 uses index 7 of `x`"):
        simulate(widen_quads, 1, 32, (x, out))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("stored", "instruction"), [(types.float32, "ld.global.v4"), (types.float16, "ld.global.v2")]
)
def test_a_quad_is_one_instruction(stored, instruction):
    signature = (stored[::1], types.float32[::1])
    text = compile_to_ptx(widen_quads, signature, (9, 0))
    assert text.count(instruction) == 1


def test_what_is_no_array_of_numbers_is_refused():
    with pytest.raises(Exception, match="load_quad takes a C-contiguous array"):
        compile_to_ptx(widen_quads, (types.float64[::1], types.float32[::1]), (9, 0))
