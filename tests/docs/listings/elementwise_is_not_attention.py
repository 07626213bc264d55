import numpy as np

from llm_numba import ops

T, D = 6, 32
rng = np.random.default_rng(0)
q = rng.normal(size=D)
k, v = rng.normal(size=(2, T, D))
right = ops.causal_attention(q[None, None], k[:, None], v[:, None], scale=D**-0.5)[0, 0]

# The sketch: thread i multiplies q[i] by k[i] and calls the product a score.
sketch = np.zeros(D)
for t in range(T):
    score = q * k[t] * D**-0.5  # D numbers, where a score is one
    sketch += np.exp(score - score.max()) / np.exp(score - score.max()).sum() * v[t]

error = np.linalg.norm(sketch - right) / np.linalg.norm(right)
print(f"relative error of the sketch: {error:.0%}")
