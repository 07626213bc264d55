import numpy as np
from numba import cuda

from llm_numba.runtime import launch, to_device


@cuda.jit
def saxpy(a, x, y, z):
    i = cuda.grid(1)
    if i < z.size:
        z[i] = a * x[i] + y[i]


x, y, z = np.ones((3, 1000), np.float32)
x, y, z = (to_device(v, "sim") for v in (x, y, z))
args = (np.float32(2), x, y, z)
launch(saxpy, 4, 256, args)

print(np.asarray(z).sum())
