import numpy as np

from llm_numba import ops

seeds, streams = np.array([7, 7, 8], np.uint64), np.array([0, 1, 0])
for position in range(3):
    print(np.round(ops.philox_uniform(seeds, streams, np.full(3, position)), 4))

# Any number can be had again, in any order: there is no state.
print(np.round(ops.philox_uniform(seeds[:1], streams[:1], np.array([0])), 4))

probs = np.array([[0.5, 0.2, 0.3]])
for u in (0.1, 0.5, 0.69, 0.7, 0.99):
    print(f"u = {u}: token {ops.sample(probs, np.array([u]))[0]}")
