import numpy as np

from llm_numba import LLMNumbaError
from llm_numba.kernels.basics import histogram, saxpy
from llm_numba.runtime import to_device, to_host

x = to_device(np.arange(5, dtype=np.float32), "sim")
y = to_device(np.ones(5, np.float32), "sim")
print(to_host(saxpy(10.0, x, y)))

values = to_device(np.array([1, 3, 3, 0, 3], np.int32), "sim")
print(to_host(histogram(values, bins=4)))

try:
    saxpy(10.0, x, values)
except LLMNumbaError as error:
    print(error)
