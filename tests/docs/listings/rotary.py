import numpy as np

from llm_numba import ops

frequencies = ops.rope_frequencies(32, base=10000.0, scaling=ops.RopeScaling())
for pair in (0, 1, 15):
    print(f"pair {pair:2} turns once in {2 * np.pi / frequencies[pair]:8.1f} positions")

cos, sin = ops.rope_tables(frequencies, num_positions=1024, dtype=np.dtype("float64"))
rng = np.random.default_rng(0)
q, k = rng.normal(size=(2, 1, 1, 32))  # one token, one head, D = 32

for p, t in ((5, 2), (105, 102), (1005, 1002), (6, 2)):
    turned_q = ops.rope(q, np.array([p]), cos, sin)
    turned_k = ops.rope(k, np.array([t]), cos, sin)
    print(f"query at {p:4}, key at {t:4}: q·k = {np.vdot(turned_q, turned_k):.4f}")
