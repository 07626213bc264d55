"""Where the tests of kernels run: in the simulator always, and on a GPU where there is one."""

import sys
from pathlib import Path

import pytest

from llm_numba.runtime import gpu_problem

# What several modules of tests share: `attention_cases`, `gemv_cases`.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """A device for ``runtime.to_device``."""
    if request.param == "cuda" and (problem := gpu_problem()):
        pytest.skip(f"no kernel runs on a GPU here: {problem}")
    return request.param
