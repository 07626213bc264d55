"""Questions about shapes that come with the package."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from llm_numba.models import ModelConfig, load_config
from llm_numba.models.random import resolve_shape
from llm_numba.planner import KernelTable, Question, find_gpu, packaged_table

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def shape(name: str) -> ModelConfig:
    """The configuration of a shape for random weights."""
    return load_config(resolve_shape(name))


@pytest.fixture(scope="session")
def asked() -> Callable[..., Question]:
    """Asks about a shape on a GPU."""

    def ask(model: str = "llama-3-8b", gpu: str = "h100", **fields: object) -> Question:
        return Question(shape(model), BFLOAT16, find_gpu(gpu), **fields)

    return ask


@pytest.fixture(scope="session")
def table() -> KernelTable:
    """The table of the package."""
    return packaged_table()
