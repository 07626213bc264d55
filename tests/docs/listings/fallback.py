import numpy as np

from llm_numba import ops
from llm_numba.runtime import listen, to_device

listen(print)
for K, dtype in [(64, "bfloat16"), (60, "bfloat16"), (64, "float32")]:
    x, weight = (to_device(np.zeros((n, K), dtype), "sim") for n in (12, 8))
    for _ in range(2):
        ops.linear(x, weight)
listen(None)
