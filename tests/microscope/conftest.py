"""A small ladder, with a kernel that one can follow by hand."""

import numpy as np
import pytest
from numba import cuda

from llm_numba.kernels.ladder import Ladder, Step
from llm_numba.runtime import Launch


@cuda.jit
def copy(x, out):
    """Copy a number a thread."""
    i = cuda.grid(1)
    out[i] = x[i]


@cuda.jit
def off_by_one(x, out):
    """Copy and add one, which nobody asked for."""
    i = cuda.grid(1)
    out[i] = x[i] + 1


def _operands(shape, dtype, seed):
    x = np.arange(*shape).astype(dtype)
    return {"x": x, "out": np.full_like(x, 0)}


def _launch(kernel, x, out):
    return (Launch(kernel, (x.size // 32,), (32,), (x, out)),)


@pytest.fixture
def copies() -> Ladder:
    """A ladder of 256 numbers to copy; its last step is wrong."""
    return Ladder(
        name="copies",
        steps=(
            Step("straight", "Side by side.", lambda x, out: _launch(copy, x, out), (copy,)),
            Step("wrong", "One too many.", lambda x, out: _launch(off_by_one, x, out), ()),
        ),
        operands=_operands,
        expect=lambda x, out: {"out": x.astype(np.float64)},
        dtypes=("float32", "float64"),
        example=(256,),
        axes="N",
        ceiling="memory",
        fewest_bytes=lambda shape, itemsize: 2 * shape[0] * itemsize,
        flops=lambda shape: 0,
    )  # fmt: skip
