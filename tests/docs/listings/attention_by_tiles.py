import numpy as np

from llm_numba import reference

T, D, TILE = 128, 64, 32
rng = np.random.default_rng(0)
q = rng.normal(size=D) * 3
k, v = rng.normal(size=(2, T, D))
right = reference.causal_attention(q[None, None], k[:, None], v[:, None], D**-0.5)[0, 0]

m, total, out = -np.inf, 0.0, np.zeros(D)  # the online rule
pieces = []  # the sketch: a softmax of each tile, and the mean of what they give
for first in range(0, T, TILE):
    scores = k[first : first + TILE] @ q * D**-0.5
    values = v[first : first + TILE]
    larger = max(m, scores.max())
    powers = np.exp(scores - larger)
    shrunk = np.exp(m - larger)
    m, total = larger, total * shrunk + powers.sum()
    out = out * shrunk + powers @ values
    pieces.append(reference.softmax(scores) @ values)


def error(found):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


print(f"softmax of each tile: off by {error(np.mean(pieces, axis=0)):.0%}")
print(f"online rule: right to 12 digits is {error(out / total) < 1e-12}")
