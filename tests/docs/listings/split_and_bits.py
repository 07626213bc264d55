import numpy as np

from llm_numba.kernels.gemv import gemv
from llm_numba.kernels.gemv_plans import Config, plan_config
from llm_numba.runtime import launch_all, to_device

rng = np.random.default_rng(0)
x, weight = (to_device(rng.normal(size=(8, 4096)).astype(np.float32), "sim") for _ in range(2))

print("row 0 of x times row 0 of W, by the number of warps that share the row:")
for warps in (1, 2, 4, 8):
    out = to_device(np.zeros((1, 8), np.float32), "sim")
    launch_all(plan_config(Config(4, 2), warps=warps, x=x[:1], weight=weight, out=out))
    print(f"    {warps}: {out[0, 0]:.9}")

print("by the number of rows of x:")
for rows in (1, 2, 5, 8):
    print(f"    {rows}: {gemv(x[:rows], weight)[0, 0]:.9}")
