"""Which device and which number format a user's words turn into."""

import ctypes
import importlib.util
import sys

import numpy as np
import pytest

from llm_numba.errors import DeviceError
from llm_numba.runtime import gpu_problem, resolve_device, resolve_dtype, stands_for, to_device


class Driver:
    """A made-up NVIDIA driver that starts, or does not, with the given status."""

    def __init__(self, status):
        self.status = status

    def cuInit(self, flags):  # noqa: N802
        assert flags == 0
        return self.status


@pytest.fixture
def fresh_gpu_problem():
    gpu_problem.cache_clear()
    yield
    gpu_problem.cache_clear()


@pytest.fixture
def no_driver(monkeypatch, fresh_gpu_problem):
    def load(name):
        raise OSError("no such file")

    monkeypatch.setattr(ctypes, "CDLL", load)


@pytest.fixture
def working_gpu(monkeypatch):
    monkeypatch.setattr("llm_numba.runtime.device.gpu_problem", lambda: None)


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_the_cpu_and_the_simulator_are_always_there(device, no_driver):
    assert resolve_device(device) == device


def test_auto_is_the_cpu_where_no_gpu_works(no_driver):
    assert resolve_device("auto") == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_auto_is_the_gpu_where_one_works(device, working_gpu):
    assert resolve_device(device) == "cuda"


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:0", ""])
def test_an_unknown_device_is_named_with_the_known_ones(device):
    with pytest.raises(DeviceError) as caught:
        resolve_device(device)
    assert repr(device) in caught.value.cause
    assert "auto, cpu, cuda, sim" in caught.value.remedy


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (OSError("no such file"), "no NVIDIA driver"),
        (Driver(100), "finds no GPU"),  # CUDA_ERROR_NO_DEVICE
        (Driver(803), "does not start"),  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        (Driver(0), "CuPy is not installed"),
    ],
    ids=["no driver", "no GPU", "broken driver", "a GPU without CuPy"],
)
def test_cuda_says_why_it_cannot_be_had(driver, why, monkeypatch, fresh_gpu_problem):
    def load(name):
        assert name == "libcuda.so.1"
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError) as caught:
        resolve_device("cuda")
    assert why in caught.value.cause
    assert "device='cpu'" in caught.value.remedy


# -- Number formats -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "result"), [(None, np.float32), ("float32", np.float32), ("float64", np.float64)]
)
def test_the_cpu_computes_in_float32_unless_told_otherwise(dtype, result):
    assert resolve_dtype(dtype, "cpu", stored="bfloat16") == np.dtype(result)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "single"])
def test_a_format_that_the_cpu_does_not_compute_in_is_refused(dtype):
    with pytest.raises(DeviceError) as caught:
        resolve_dtype(dtype, "cpu")
    assert repr(dtype) in caught.value.cause
    assert "float32, float64" in caught.value.remedy


@pytest.mark.parametrize("device", ["cuda", "sim"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_compute_in_each_of_their_formats(device, dtype):
    assert resolve_dtype(dtype, device) == np.dtype(dtype)


@pytest.mark.parametrize("device", ["cuda", "sim"])
@pytest.mark.parametrize("dtype", ["float64", "int8", ""])
def test_a_format_that_no_kernel_computes_in_is_refused(device, dtype):
    with pytest.raises(DeviceError) as caught:
        resolve_dtype(dtype, device)
    assert repr(dtype) in caught.value.cause
    assert "float32, float16, bfloat16" in caught.value.remedy


@pytest.mark.parametrize(
    ("stored", "result"),
    [
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_a_gpu_keeps_weights_as_they_are_stored_if_it_can(stored, result):
    assert resolve_dtype(None, "cuda", stored) == np.dtype(result)
    assert resolve_dtype(None, "sim", stored) == np.dtype(np.float32)


# -- Kernels on a GPU ---------------------------------------------------------------------------


def test_without_a_driver_nobody_imports_cupy(monkeypatch, no_driver):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import would fail, and be told
    assert gpu_problem() == "no NVIDIA driver (libcuda.so.1) is installed on this machine"


@pytest.mark.parametrize(
    ("cupy", "problem"),
    [
        (None, "CuPy is not installed (pip install 'llm-numba[cu13]')"),
        ("raise ImportError('libcudart.so.13 not found')", "does not work (libcudart.so.13"),
        ("def zeros(n): raise RuntimeError('no kernel\\nimage')", "does not work (no kernel)"),
        ("def zeros(n): raise RuntimeError", "does not work (RuntimeError)"),
        ("def zeros(n): pass", None),
    ],
    ids=["none", "broken", "useless", "wordless", "works"],
)
def test_cupy_says_why_a_gpu_cannot_be_used(
    cupy, problem, monkeypatch, tmp_path, fresh_gpu_problem
):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(0))
    # Only this folder is searched: the machine's own CuPy, if it has one, is not found.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    if cupy is not None:
        (tmp_path / "cupy.py").write_text(cupy)
    found = gpu_problem()
    assert found is None if problem is None else problem in found
    sys.modules.pop("cupy", None)


def test_the_simulator_stands_for_no_architecture_unless_it_is_asked_to(monkeypatch):
    array = to_device(np.zeros(3, np.float16), "sim")
    monkeypatch.delenv("LLM_NUMBA_SIM_CAPABILITY", raising=False)
    assert not stands_for(array, (9, 0))
    monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", "9.0")
    assert stands_for(array, (9, 0))
    assert not stands_for(array, (10, 0))
