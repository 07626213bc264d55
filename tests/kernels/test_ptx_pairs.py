"""Two neighbours in one access, to and from float32; and a line that is sent for."""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda
from numba.cuda import types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem

DTYPES = ["float16", "bfloat16"]


@cuda.jit
def doubled(x, out):
    at = 2 * cuda.grid(1)
    ptx.prefetch(x, at)
    low, high = ptx.load_pair(x, at)
    ptx.store_pair(out, at, low + low, high + high)


@pytest.mark.parametrize("stored", ["same", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_are_loaded_and_stored(dtype, stored, device):
    """Doubling is exact in every format."""
    host = np.random.default_rng(0).normal(size=(4, 16)).astype(dtype)
    x = runtime.to_device(host, device)
    out = runtime.empty(x.shape, x.dtype if stored == "same" else "float32", like=x)
    runtime.launch(doubled, 1, 32, (x, out))
    np.testing.assert_array_equal(runtime.to_host(out), (2 * host.astype(np.float32)))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_each_is_one_access():
    halves, floats = types.uint16[:, ::1], types.float32[:, ::1]
    text = compile_to_ptx(doubled, (halves, floats), (8, 0))
    for instruction in ("prefetch.global.L2", "ld.global.u32", "st.global.v2.f32"):
        assert text.count(instruction) == 1
