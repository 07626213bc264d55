import numpy as np

from llm_numba import ops

S, H, G, D = 4, 8, 4, 32
rng = np.random.default_rng(0)
q = rng.normal(size=(S, H, D))
k, v = rng.normal(size=(2, S, G, D))
out = ops.causal_attention(q, k, v, scale=D**-0.5)

# The same for query head 5 alone, by the formula. It shares KV head 5 // (H // G) = 2.
h, g = 5, 5 // (H // G)
scores = q[:, h] @ k[:, g].T / np.sqrt(D)  # [S, S]
scores[np.triu_indices(S, 1)] = -np.inf  # a query sees no key after its own position
weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
print(np.round(weights, 2))
assert np.allclose(weights @ v[:, g], out[:, h])
