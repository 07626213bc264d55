import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate


def product(pitch_a, pitch_w):
    @cuda.jit
    def kernel(a, w, c):
        """C = A Wᵀ of 32 x 32, by way of shared tiles."""
        a_tile = cuda.shared.array((32, pitch_a), float32)
        w_tile = cuda.shared.array((32, pitch_w), float32)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        a_tile[ty, tx], w_tile[ty, tx] = a[ty, tx], w[ty, tx]
        cuda.syncthreads()
        total = float32(0)
        for k in range(32):
            total += a_tile[ty, k] * w_tile[tx, k]
        c[ty, tx] = total

    return kernel


a, w = np.random.default_rng(0).normal(size=(2, 32, 32)).astype(np.float32)
for what, pitches in (
    ("no padding", (32, 32)),
    ("A's tile padded", (33, 32)),
    ("W's tile padded", (32, 33)),
):
    c = np.empty_like(a)
    report = simulate(product(*pitches), 1, (32, 32), (a, w, c))
    assert np.allclose(c, a @ w.T, atol=1e-5)
    print(f"{what:16}{report.shared_wavefronts:6} wavefronts")
