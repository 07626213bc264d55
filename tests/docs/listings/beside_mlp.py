import numpy as np

from llm_numba import ops

N, E, F = 3, 8, 16
rng = np.random.default_rng(0)
x = rng.normal(size=(N, E))
norm = rng.normal(size=E)
gate, up = rng.normal(size=(2, F, E))
down = rng.normal(size=(E, F))

# Gate and up are one matrix. The norm
# goes into the product behind it, the
# residual into the one before it.
both = np.concatenate([gate, up])
hidden = ops.linear(
    x,
    both,
    activation="silu_mul",
    norm_weight=norm,
    eps=1e-5,
)
y = ops.linear(hidden, down, residual=x)

print(y.sum().round(6))
