"""Errors of the GPU's libraries become the engine's own; all others stay what they are."""

import subprocess
import sys
import weakref
from types import SimpleNamespace

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


@pytest.mark.parametrize("lost", [False, True])
def test_another_fault_of_the_gpu_is_named_with_what_is_left_of_it(monkeypatch, lost):
    def synchronize() -> None:
        if lost:
            raise CUDAError("again")

    runtime = SimpleNamespace(deviceSynchronize=synchronize)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(EngineError, match="GPU failed in a step: CUDAError") as caught:
        fail(CUDAError())
    assert ("new process" in caught.value.remedy) is lost


# In a process of its own: nothing runs on the GPU after it.
RUINED = """
import numpy as np
from numba import cuda

from llm_numba import LLM, SamplingParams
from llm_numba.errors import EngineError
from llm_numba.runtime import launch, to_device


@cuda.jit
def write_far_away(x, where):
    x[where] = 1


params = SamplingParams(temperature=0, max_tokens=4)
llm = LLM(device="cuda", num_blocks=100)
llm.generate("One", params)
launch(write_far_away, 1, 1, (to_device(np.zeros(4, np.float32)), 2**40))
for _ in range(2):
    try:
        llm.generate("One", params)
    except EngineError as error:
        print(error, "|", type(error.__cause__).__name__)
"""


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="the error that is made here on purpose would be a finding")
def test_an_illegal_address_is_an_error_that_says_what_is_left():
    done = subprocess.run(
        [sys.executable, "-c", RUINED], capture_output=True, text=True, timeout=300
    )
    told = done.stdout.splitlines()
    assert len(told) == 2, done.stderr
    assert all("illegal" in line.lower() and "new process" in line for line in told)


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
