"""The PyTorch that ladders are compared with computes what they compute (`make parity`)."""

import numpy as np
import pytest
from small_points import small

from llm_numba.bench.kernel_points import allowed_error, relative_error
from llm_numba.bench.kernels import _results_of, as_tensors
from llm_numba.bench.points import POINTS
from llm_numba.runtime import to_device

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "point", [pytest.param(point, id=point.name) for point in POINTS if point.eager]
)
def test_eager_is_the_reference(point):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    point = small(point)
    operands = point.operands()
    on_device = {
        name: to_device(value, "sim") if isinstance(value, np.ndarray) else value
        for name, value in operands.items()
    }
    tensors = as_tensors(torch, on_device)
    if point.prepare:
        tensors = point.prepare(torch, tensors)
    found = _results_of(torch, point.eager(torch, tensors))
    rows = np.arange(len(operands[point.by_rows[0]]) if point.by_rows else 0)
    expected = point.expected(operands, rows)
    assert {*found} <= {*expected}
    for name, output in found.items():
        assert output.shape == expected[name].shape
        assert relative_error(output, expected[name]) <= allowed_error(output, point.shape[-1])
