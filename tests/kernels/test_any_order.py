"""Every step of every ladder in adversarial orders: no order gives a fault or another result."""

import numpy as np
import pytest

from llm_numba.kernels.ladder import all_ladders
from llm_numba.simulator import simulate

# Small, and no multiple of anything: tails and partial warps everywhere.
SHAPES = {1: (67,), 2: (3, 45), 3: (5, 9, 19), 4: (5, 6, 2, 19), 5: (8, 2, 3, 5, 45)}
# One access at a time, blocks of four warps take long: a context of two pieces is enough.
# Packets of 16 bytes want 4 numbers at a time along K.
SMALLER = {
    "attention": (8, 1, 1, 3, 37),
    "attention-tensor": (16, 1, 1, 3, 37),
    "attention_sketch": (8, 1, 1, 2, 33),
    "paged_decode": (8, 1, 2, 1, 66),
    "rope_attention": (8, 1, 2, 1, 66),
    "gemm": (5, 7, 20),
    "gemm_tensorcore": (20, 9, 72),
    "gemm_skinny": (5, 9, 72),
    "gemm_hopper": (70, 9, 72),
}


STEPS = [
    pytest.param(ladder, step, id=f"{ladder.name}-{step.name}")
    for ladder in all_ladders().values()
    for step in ladder.steps
]
# In float32 this step runs the one before.
IN_HALVES = ("attention-tensor",)
# One order takes some seconds to a minute: dozens of outputs a thread, 128 threads or more.
FEWER_ORDERS = {
    **{f"gemm_hopper-{step.name}": 2 for step in all_ladders()["gemm_hopper"].steps},
    "gemm-register_tile": 4,
    "attention-tile": 1,
    "attention-padded": 1,
    "attention-register_tile": 1,
    "attention-paged": 1,
    "attention-tensor": 1,
    "attention_sketch-sketch": 1,
    "attention_sketch-separate": 1,
}
# Of these ladders, one takes a second, or some.
SOME_ORDERS = {
    "sample": 5,
    "paged_decode": 8,
    "rope_attention": 8,
    "gemm": 16,
    "gemv": 20,
    "gemm_skinny": 8,
    "gemm_tensorcore": 25,
    "attention": 25,
}


def run(ladder, step, **options):
    name = f"{ladder.name}-{step.name}"
    shape = SMALLER.get(name, SMALLER.get(ladder.name, SHAPES[len(ladder.example)]))
    # Without a launcher, which would hand bfloat16 over as words.
    dtypes = ("float16",) if name in IN_HALVES else ladder.dtypes
    dtype = next(each for each in dtypes if each != "bfloat16")
    operands = ladder.operands(shape, np.dtype(dtype), 0)
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


@pytest.mark.parametrize(
    ("ladder", "step"), [each for each in STEPS if each.id not in FEWER_ORDERS]
)
def test_one_order_or_two(ladder, step):
    hold(ladder, step, range(1 if ladder.name in SOME_ORDERS else 2))


@pytest.mark.slow
@pytest.mark.parametrize(("ladder", "step"), STEPS)
def test_up_to_fifty_orders(ladder, step, request):
    some = SOME_ORDERS.get(ladder.name, 50)
    hold(ladder, step, range(FEWER_ORDERS.get(request.node.callspec.id, some)))
