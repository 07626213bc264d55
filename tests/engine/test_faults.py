"""Errors of the GPU's libraries become the engine's own; all others stay what they are."""

import weakref

import numpy as np
import pytest

from llm_numba.engine.faults import reported
from llm_numba.errors import CacheError, EngineError

OutOfMemoryError = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})
CUDAError = type("CUDAError", (Exception,), {"__module__": "cuda.core._utils.cuda_utils"})


def fail(error: BaseException) -> None:
    with reported("a step"):
        raise error


def test_a_lack_of_memory_says_what_to_lower_and_has_its_cause():
    cause = OutOfMemoryError("Out of memory allocating 1,024 bytes\nmore of it")
    with pytest.raises(EngineError, match="not enough memory for a step: Out of memory") as caught:
        fail(cause)
    assert caught.value.__cause__ is cause
    assert "\n" not in str(caught.value)
    assert "max_num_batched_tokens" in caught.value.remedy


def test_another_fault_of_the_gpu_is_named_too():
    with pytest.raises(EngineError, match="GPU failed in a step: CUDAError"):
        fail(CUDAError())


@pytest.mark.parametrize(
    "error", [CacheError("full", "wait"), MemoryError(), ValueError("no"), KeyboardInterrupt()]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught:
        fail(error)
    assert caught.value is error


def test_an_error_that_is_kept_keeps_no_array_alive():
    """An engine hands its error to every request, and each may keep it for long."""
    seen = []

    def work() -> None:
        array = np.zeros(3)
        seen.append(weakref.ref(array))
        raise CUDAError("no")

    with pytest.raises(EngineError) as caught, reported("a step"):
        work()
    assert isinstance(caught.value.__cause__, CUDAError)
    assert seen[0]() is None
