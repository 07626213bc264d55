"""The PyTorch that ladders are compared with computes what they compute (`make parity`)."""

import dataclasses

import numpy as np
import pytest

from llm_numba.bench.kernel_points import POINTS, allowed_error, relative_error
from llm_numba.bench.kernels import _from_torch, as_tensors
from llm_numba.runtime import to_device

pytestmark = pytest.mark.parity

SMALL = {"M N": (7, 272), "N": (1000,), "M N K": (9, 17, 33)}


@pytest.mark.parametrize(
    "point", [pytest.param(point, id=point.name) for point in POINTS if point.eager]
)
def test_eager_is_the_reference(point):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    small = dataclasses.replace(point, shape=SMALL[point.ladder.axes])
    operands = small.operands()
    on_device = {
        name: to_device(value, "sim") if isinstance(value, np.ndarray) else value
        for name, value in operands.items()
    }
    found = _from_torch(torch, small.eager(torch, as_tensors(torch, on_device)))
    expected = small.expected(operands, np.arange(small.shape[0]))["out"]
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= allowed_error(found, small.shape[-1])
