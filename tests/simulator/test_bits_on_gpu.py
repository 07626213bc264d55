"""The same kernels on a GPU: bit for bit what the simulator makes of them."""

import expressions
import numpy as np
import pytest

from llm_numba import runtime

pytestmark = pytest.mark.gpu


def on_both(kernel, grid, block, inputs, out):
    """Return what a kernel writes on the GPU and in the simulator."""
    results = []
    for device in ("cuda", "sim"):
        arrays = [runtime.to_device(each, device) for each in (*inputs, out)]
        runtime.launch(kernel, (grid,), (block,), tuple(arrays))
        results.append(np.asarray(runtime.to_host(arrays[-1])))
    return results


@pytest.mark.parametrize("name", expressions.CASES)
def test_an_expression(name):
    kernel, inputs, dtype, _ = expressions.CASES[name]
    out = np.zeros(len(inputs[0]), dtype)
    expressions.assert_same_bits(*on_both(kernel, -(-len(out) // 64), 64, inputs, out))


def test_exchanges_and_votes():
    x = np.random.default_rng(3).integers(-99, 99, 64)
    expressions.assert_same_bits(
        *on_both(expressions.exchanges, 2, 32, (x,), np.zeros((12, 64), np.int64))
    )


def test_atomics():
    x = np.random.default_rng(4).integers(-(2**30), 2**30, 300).astype(np.int32)
    expressions.assert_same_bits(*on_both(expressions.atomics, 5, 64, (x,), np.zeros(10, np.int32)))
