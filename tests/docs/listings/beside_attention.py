import numpy as np

from llm_numba import ops

H, G, T, D = 4, 2, 5, 8
rng = np.random.default_rng(0)
q = rng.normal(size=(T, H, D))
k, v = rng.normal(size=(2, T, G, D))

# Tokens first, then heads. G KV heads
# may be fewer than H query heads.
y = ops.causal_attention(q, k, v, D**-0.5)

print(y.shape)
print(y.sum().round(6))
