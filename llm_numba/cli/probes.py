"""Experiments that may crash, each run in a process of its own: ``python -m llm_numba.cli.probes``.

A wrong driver or a mixture of two MPIs ends in a segmentation fault or waits for ever, neither of
which an ``except`` can catch. :func:`start` runs one probe in a child, :func:`finish` turns its
end, whichever it is, into facts. A probe tries the thing itself: a version number proves little.
"""

import contextlib
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_FAREWELL_S = 5.0
_CC_MAJOR, _CC_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def cpu_path() -> dict[str, Any]:
    """Generate a few tokens with the bundled model on the CPU."""
    from llm_numba.engine import LLM, SamplingParams

    begin = time.perf_counter()
    llm = LLM(device="cpu")
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    (output,) = llm.generate("Once upon a time", params)
    return {"tokens": len(output.outputs[0].token_ids), "seconds": time.perf_counter() - begin}


def simulator() -> dict[str, Any]:
    """Run a kernel of this package in the simulator and hold it to its twin."""
    import numpy as np

    from llm_numba.kernels.softmax import softmax
    from llm_numba.reference import softmax as expected
    from llm_numba.runtime import to_device, to_host

    begin = time.perf_counter()
    x = np.linspace(-4, 4, 96, dtype=np.float32).reshape(3, 32)
    right = np.allclose(to_host(softmax(to_device(x, "sim"))), expected(x), atol=1e-6)
    return {"right": bool(right), "seconds": time.perf_counter() - begin}


def gpu_path() -> dict[str, Any]:
    """Generate a few tokens with the bundled model on the GPU and hold them to the CPU's."""
    from llm_numba.engine import LLM, SamplingParams

    begin = time.perf_counter()
    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    here, there = (
        LLM(device=device, dtype="float32").generate("Once upon a time", params)[0].outputs[0]
        for device in ("cuda", "cpu")
    )
    return {
        "tokens": len(here.token_ids),
        "right": here.token_ids == there.token_ids,
        "seconds": time.perf_counter() - begin,
    }


def blas_library() -> dict[str, Any]:
    """Multiply two matrices, then name the BLAS that did it and its threads."""
    import numpy as np

    from llm_numba.bench.environment import blas

    ones = np.ones((64, 64), np.float32)
    return {**blas(), "right": bool(np.all(ones @ ones == 64))}


def cuda_driver() -> dict[str, Any]:
    """Ask the CUDA driver for its version and devices."""
    driver = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: Any) -> None:
        if code := getattr(driver, name)(*arguments):
            message = ctypes.c_char_p()
            driver.cuGetErrorString(code, ctypes.byref(message))
            raise RuntimeError(f"{name}: {(message.value or b'unknown error').decode()}")

    def attribute(device: ctypes.c_int, which: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    call("cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    devices = []
    for ordinal in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
        call("cuDeviceGet", ctypes.byref(device), ordinal)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        capability = f"{attribute(device, _CC_MAJOR)}.{attribute(device, _CC_MINOR)}"
        devices.append(
            {
                "name": name.value.decode(),
                "memory_bytes": size.value,
                "compute_capability": capability,
            }
        )
    return {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}", "devices": devices}


def numba_cuda() -> dict[str, Any]:
    """Compile a kernel with Numba and run it."""
    import numpy as np
    from numba import cuda

    @cuda.jit
    def double(x: Any) -> None:
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= 2

    x = cuda.to_device(np.arange(64, dtype=np.float32))
    double[2, 32](x)
    return {"right": bool(np.array_equal(x.copy_to_host(), 2 * np.arange(64)))}


def cupy() -> dict[str, Any]:
    """Add numbers with CuPy."""
    import cupy

    return {"right": int(cupy.arange(10).sum()) == 45}


def mpi() -> dict[str, Any]:
    """Load mpi4py with its MPI library and start it as a single rank."""
    from mpi4py import MPI

    version = MPI.Get_library_version().strip("\x00\n ").splitlines()[0]
    maps = Path("/proc/self/maps").read_text().split()
    libraries = sorted({word for word in maps if "/libmpi" in word})
    return {"library": version, "path": libraries[0] if libraries else None}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    probe.__name__: probe
    for probe in (cpu_path, simulator, blas_library, cuda_driver, numba_cuda, cupy, gpu_path, mpi)
}


def start(name: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a probe in a child process.

    Parameters
    ----------
    name : str
        A key of ``PROBES``.
    environment : mapping of str to str, optional
        By default that of this program.
    """
    return start_program([sys.executable, "-m", "llm_numba.cli.probes", name], environment)


def start_program(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a program that writes facts: JSON objects, one a line.

    Parameters
    ----------
    command : sequence of str
    environment : mapping of str to str, optional
        By default that of this program.
    """
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def finish(child: subprocess.Popen[str], timeout: float) -> dict[str, Any]:
    """Wait for a probe and return what it found out.

    Parameters
    ----------
    child : Popen
        From :func:`start`.
    timeout : float
        Seconds after which it is ended.

    Returns
    -------
    dict
        The probe's facts, or ``{"error": sentence}`` if it failed, crashed or did not end.
    """
    facts, problem = finish_program(child, timeout)
    if problem:
        return {"error": problem}
    return facts[-1] if facts else {"error": "it ended without a word"}


def finish_program(
    child: subprocess.Popen[str], timeout: float
) -> tuple[list[dict[str, Any]], str]:
    """Wait for a program and return what it wrote.

    Parameters
    ----------
    child : Popen
        From :func:`start_program`.
    timeout : float
        Seconds after which it is ended.

    Returns
    -------
    facts : list of dict
        All that it wrote until it ended, or was.
    problem : str
        Why it did not end as it should; "" if it did.
    """
    problem = ""
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        problem = f"no answer within {timeout:g} s"
        # A launcher ends its ranks only if it is asked.
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_FAREWELL_S)
        child.kill()
        out, err = child.communicate()
    if not problem and child.returncode < 0:
        problem = f"crashed with signal {-child.returncode}"
    elif not problem and child.returncode:
        # Launchers put rules of dashes around what they say.
        lines = [line for line in err.splitlines() if any(map(str.isalnum, line))]
        problem = lines[-1].strip() if lines else f"exit code {child.returncode}"
    return list(_facts(out)), problem


def _facts(out: str) -> Iterator[dict[str, Any]]:
    """Yield the facts among what a program wrote."""
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            # Launchers may join lines, and put characters of their own behind.
            facts, _ = json.JSONDecoder().raw_decode(line)
            if isinstance(facts, dict):
                yield facts


if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()), flush=True)
