"""Every step of every ladder in adversarial orders: no order gives a fault or another result."""

import numpy as np
import pytest

from llm_numba.kernels.ladder import all_ladders
from llm_numba.simulator import simulate

# Small, and no multiple of anything: tails and partial warps everywhere.
SHAPES = {1: (67,), 2: (3, 45), 3: (5, 9, 19), 4: (5, 6, 2, 19), 5: (8, 2, 3, 5, 45)}
# One access at a time, blocks of four warps take long: a context of two pieces is enough.
SMALLER = {"paged_decode": (8, 1, 3, 1, 70)}


STEPS = [
    pytest.param(ladder, step, id=f"{ladder.name}-{step.name}")
    for ladder in all_ladders().values()
    for step in ladder.steps
]
LONGEST = "gemm-register_tile"


def run(ladder, step, **options):
    shape = SMALLER.get(ladder.name, SHAPES[len(ladder.example)])
    operands = ladder.operands(shape, np.dtype(ladder.dtypes[0]), 0)
    want = ladder.expect(**operands)
    for launch in step.plan(**operands):
        simulate(*launch, explain=False, **options)
    return operands, want


def hold(ladder, step, seeds):
    straight, want = run(ladder, step)
    for seed in seeds:
        operands, _ = run(ladder, step, schedule="random", seed=seed)
        for name in want:
            # Float atomics aside, of which no ladder has any, order must not show in a single bit.
            np.testing.assert_array_equal(operands[name], straight[name])


def test_there_are_ladders():
    assert len(STEPS) > 30


@pytest.mark.parametrize(("ladder", "step"), [each for each in STEPS if each.id != LONGEST])
def test_two_orders(ladder, step):
    hold(ladder, step, range(2))


@pytest.mark.slow
@pytest.mark.parametrize(("ladder", "step"), STEPS)
def test_fifty_orders(ladder, step, request):
    # One order of the register tile takes some ten seconds: 64 outputs a thread, 256 threads.
    orders = 4 if request.node.callspec.id == LONGEST else 50
    hold(ladder, step, range(orders))
