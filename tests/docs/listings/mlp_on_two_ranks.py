import numpy as np

from llm_numba import ops
from llm_numba.parallel import run_ranks

N, E, F, P = 3, 8, 12, 2
rng = np.random.default_rng(0)
x = rng.normal(size=(N, E))
gate, up, down = (rng.normal(size=shape) for shape in ((F, E), (F, E), (E, F)))
whole = (ops.silu(x @ gate.T) * (x @ up.T)) @ down.T


def mlp(ranks):
    mine = slice(ranks.rank * F // P, (ranks.rank + 1) * F // P)
    inner = ops.silu(x @ gate[mine].T) * (x @ up[mine].T)  # by columns: [N, F/P]
    part = np.ascontiguousarray(inner @ down[:, mine].T)  # by rows: [N, E], a part of each sum
    print_once(ranks, f"inner {inner.shape}, part {part.shape}")
    return ranks.all_reduce(part)


def print_once(ranks, text):
    if ranks.rank == 0:
        print(text)


first, second = run_ranks(P, mlp)
print(f"same bits on both ranks: {np.array_equal(first, second)}")
print(f"largest difference from the whole: {np.abs(first - whole).max():.6f}")
