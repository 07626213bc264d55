import numpy as np

from llm_numba import reference

scores = np.random.default_rng(0).normal(scale=3, size=128)
right = reference.softmax(scores)

pieces = scores.reshape(-1, 32)  # what each warp holds
wrong = reference.softmax(pieces).reshape(-1)
print(f"the row: weights sum to {right.sum():.0f}, by pieces to {wrong.sum():.0f}")
print(f"largest error of a weight: {np.abs(wrong - right).max():.2f}")

# Merged: each piece brings its maximum and its sum.
maxima = pieces.max(axis=1)
sums = np.exp(pieces - maxima[:, None]).sum(axis=1)
total = (sums * np.exp(maxima - maxima.max())).sum()
merged = wrong.reshape(-1, 32) * (sums * np.exp(maxima - maxima.max()) / total)[:, None]
assert np.allclose(merged.reshape(-1), right)
