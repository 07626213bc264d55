import numpy as np

from llm_numba.kernels.softmax import softmax
from llm_numba.runtime import to_device, to_host

rng = np.random.default_rng(0)
x = rng.normal(size=(4, 1000))
x = x.astype(np.float32)

# "sim" is the simulator, "cuda" the GPU.
on_device = to_device(x, "sim")
y = softmax(on_device, step="online")

print(to_host(y).sum(axis=1).round(4))
