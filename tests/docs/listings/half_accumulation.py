import numpy as np
from numba import cuda, float32
from numba.cuda.types import float16

from llm_numba.simulator import simulate


@cuda.jit
def dot(a, b, out):
    """Each thread a dot product, summed in float16 and in float32."""
    row = cuda.grid(1)
    narrow, wide = float16(0), float32(0)
    for k in range(a.shape[1]):
        narrow = cuda.fp16.hfma(a[row, k], b[row, k], narrow)
        wide += float32(a[row, k]) * float32(b[row, k])
    out[row, 0], out[row, 1] = narrow, wide


rng = np.random.default_rng(0)
print("   K   summed in float16   in float32")
for K in (64, 512, 4096):
    a, b = rng.random((2, 32, K)).astype(np.float16)
    out = np.empty((32, 2), np.float32)
    simulate(dot, 1, 32, (a, b, out), explain=False)
    exact = (a.astype(float) * b).sum(axis=1)
    error = np.abs(out - exact[:, None]).max(axis=0) / exact.max()
    print(f"{K:4}   {error[0]:17.0e}   {error[1]:10.0e}")
