import numpy as np

from llm_numba.kernels.gemm import gemm
from llm_numba.kernels.gemm_half_sum import gemm_half_sum
from llm_numba.runtime import launch, to_device

rng = np.random.default_rng(0)
print("   K   summed in float16   in float32")
for K in (64, 512, 4096):
    x, weight = rng.random((2, 16, K)).astype(np.float16)
    exact = x.astype(float) @ weight.T.astype(float)
    a, w = to_device(x, "sim"), to_device(weight, "sim")
    narrow, wide = (to_device(np.empty((16, 16), t), "sim") for t in ("float16", "float32"))
    launch(gemm_half_sum, 1, (16, 16), (a, w, narrow))
    gemm(a, w, out=wide, step="naive")
    error = [np.abs(y - exact).max() / exact.max() for y in (np.asarray(narrow), np.asarray(wide))]
    print(f"{K:4}   {error[0]:17.0e}   {error[1]:10.0e}")
