"""The experiment with the products inside the attention kernel: right, and as costly as is said.

float32 bound: q, k and v are sums of E products, each off by (E + 2) u times its absolute terms;
what that does to a score and to an output, and the rounding of attention itself, is at most a few
times as much for numbers of this size. Stored in two bytes, q, k and v are rounded as well.
"""

import numpy as np
import pytest

from llm_numba.kernels.attention_sketch import LADDER
from llm_numba.runtime import launch_all, to_device, to_host
from llm_numba.simulator import simulate

STEPS = [step.name for step in LADDER.steps]


def run(step, shape, dtype, device):
    made = LADDER.operands(shape, np.dtype(dtype), 0)
    arrays = {
        name: to_device(value, device) if isinstance(value, np.ndarray) else value
        for name, value in made.items()
    }
    launch_all(LADDER.step(step).plan(**arrays))
    return to_host(arrays["out"]).astype(np.float64), LADDER.expect(**made)["out"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        ((8, 2, 3, 35, 37), "float32", 37 * 2.0**-24),
        ((33, 1, 1, 1, 5), "float32", 37 * 2.0**-24),
        ((8, 1, 2, 33, 32), "bfloat16", 2.0**-8),
        ((8, 1, 2, 33, 32), "float16", 2.0**-11),
    ],
)
def test_both_steps_are_the_products_and_attention(shape, dtype, error, step, device):
    y, truth = run(step, shape, dtype, device)
    assert np.linalg.norm(y - truth) <= 4 * error * np.linalg.norm(truth)


def test_the_sketch_reads_x_and_the_weights_again_for_each_tile_and_head():
    D, G, R, T, E = 16, 1, 2, 64, 32
    made = LADDER.operands((D, G, R, T, E), np.dtype("float32"), 0)
    (launch,) = LADDER.step("sketch").plan(
        **{k: to_device(v, "sim") if isinstance(v, np.ndarray) else v for k, v in made.items()}
    )
    report = simulate(*launch)
    tiles = T // 32
    queries, keys = tiles, 2 * tiles * (tiles + 1) // 2  # products, of each head
    product = (32 + D) * E * 4 // 32  # sectors of 32 rows of x, and of D rows of a weight
    stored = 4 * D // 32 * T
    assert report.global_sectors == G * R * ((queries + keys) * product + stored)
