"""What a process on a GPU pays for once: kernels to compile or to find, weights to bring.

A start is measured from outside, from the beginning of a fresh process to the first token. *Cold*
is one with an empty cache of compiled kernels, *warm* one that finds them. The large model has
random weights, made on the GPU: what is left is what a start costs besides reading weights.

Bringing weights is held to the slower of what it goes through: the bus, that is copies from pinned
memory, and what the same threads read of the same file when nobody copies. Once the file is in the
operating system's cache, and once it is not.

Compiling may take minutes. So each part has its share of the time, and what is left out is said.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copy, disk_usage
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llm_numba.bench.budget import Budget
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize, wall_time
from llm_numba.errors import LLMNumbaError
from llm_numba.models import load_model, open_model, resolve_model
from llm_numba.runtime import staging

_UPLOAD_SHARE = 0.25  # of the time
# "besides reading weights": the second start of a model of 8 billion weights.
_WARM_AT_MOST = 5.0
_SHARE_AT_LEAST = 0.8

_START = """
import json, sys, time
begin = float(sys.argv[2])
from llm_numba import LLM, SamplingParams
from llm_numba.runtime import gpu

compiled, compile_one = [], gpu._compile
gpu._compile = lambda kernel, *rest: (compiled.append(1), compile_one(kernel, *rest))[1]
llm = LLM(sys.argv[1], device="cuda", dtype="bfloat16", max_model_len=256, num_blocks=64)
loaded = time.time() - begin
llm.generate([list(range(1, 33))], SamplingParams(max_tokens=2, seed=0, ignore_eos=True))
print(json.dumps({"loaded": loaded, "first": time.time() - begin, "compiled": len(compiled)}))
"""


@dataclass(frozen=True)
class StartSettings:
    """What is started and brought, and how often.

    Attributes
    ----------
    shape : str
        Of the checkpoint that is written and loaded.
    repeats : int
        Loads of it.
    models : tuple of str
        Each is started cold once and warm several times.
    processes : int
        Warm starts of each.
    """

    shape: str = "llama-3.2-1b"
    repeats: int = 3
    models: tuple[str, ...] = ("random:llama-3-8b", "storyteller")
    processes: int = 3

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def budget(self, limit_seconds: float) -> Budget:
        """Return one for uploads and for the starts of each model.

        Parameters
        ----------
        limit_seconds : float
            From now on.
        """
        each = (1 - _UPLOAD_SHARE) / len(self.models)
        starts = {f"start/{_label(model)}": each for model in self.models}
        return Budget(limit_seconds, {"upload": _UPLOAD_SHARE, **starts})


def measure(settings: StartSettings, budget: Budget) -> Iterator[Result]:
    """Measure the bringing of weights, and starts, on the current GPU.

    Parameters
    ----------
    settings : StartSettings
    budget : Budget
        As of :meth:`StartSettings.budget`. It notes what was left out.

    Yields
    ------
    Result
        As they come; a cold start takes a minute.

    Raises
    ------
    LLMNumbaError
        If nothing can be measured at all.
    """
    yield from budget.results("upload", _uploads(settings, budget))
    for model in settings.models:
        started = _starts(model, settings.processes, budget)
        yield from budget.results(f"start/{_label(model)}", started)


def _label(model: str) -> str:
    return model.removeprefix("random:")


def _starts(model: str, processes: int, budget: Budget) -> Iterator[Result]:
    label = _label(model)
    part = f"start/{label}"
    with TemporaryDirectory() as cache:
        cold = _start(model, cache, budget.seconds_left(part))
        kernels = {"kernels": cold["compiled"]}
        yield Result(
            f"start/cold/{label}",
            f"{label}: cold start, {cold['compiled']} kernels compiled",
            summarize([cold["first"]], "s"),
            kernels,
        )
        warm = [_start(model, cache, budget.seconds_left(part))]
        # One that is stopped tells nothing, and a process takes longer than to its first token.
        while len(warm) < processes and budget.seconds_left(part) > 2 * warm[-1]["first"]:
            warm.append(_start(model, cache, budget.seconds_left()))
    yield Result(
        f"start/warm/{label}",
        f"{label}: warm start, to the first token",
        summarize([each["first"] for each in warm], "s"),
        kernels,
        at_most=_WARM_AT_MOST,
    )
    yield Result(
        f"start/loaded/{label}",
        f"{label}: of that, until the model is loaded",
        summarize([each["loaded"] for each in warm], "s"),
    )


def _start(model: str, cache: str, seconds: float) -> dict[str, Any]:
    """Start a process and wait, for so many seconds at most, until it tells how long it took."""
    command = [sys.executable, "-c", _START, model, str(time.time())]
    environment = os.environ | {"LLM_NUMBA_CACHE": cache}
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise LLMNumbaError(
            f"A start of {model} took longer than {seconds:.0f} s.", "Raise --limit."
        ) from None
    if child.returncode:
        said = child.stderr.strip().splitlines() or ["It said nothing."]
        raise LLMNumbaError(
            f"A start of {model} failed: {said[-1]}", f"Run: llm-numba generate Hi -m {model}."
        )
    return json.loads(child.stdout.splitlines()[-1])


def _write_checkpoint(directory: Path, shape: str) -> None:
    """Write a checkpoint of a shape; its bytes are noise, and the same in every tensor."""
    source = resolve_model(f"random:{shape}")
    copy(source / "config.json", directory)
    tensors = open_model(source).checkpoint.tensors
    needed, free = sum(each.num_bytes for each in tensors.values()), disk_usage(directory).free
    if needed > free:
        raise LLMNumbaError(
            f"{directory} has room for {free / 1e9:.1f} GB, and a checkpoint of {shape} takes "
            f"{needed / 1e9:.1f}.",
            "Name another place in TMPDIR, or a smaller --shape.",
        )
    largest = max(info.num_elements for info in tensors.values())
    noise = np.random.default_rng(0).normal(size=1 << 20).astype(next(iter(tensors.values())).dtype)
    noise = np.resize(noise, largest)
    save_file(
        {name: noise[: info.num_elements].reshape(info.shape) for name, info in tensors.items()},
        directory / "model.safetensors",
    )
    # Pages that wait to be written cannot be dropped.
    with (directory / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())


def _uploads(settings: StartSettings, budget: Budget) -> Iterator[Result]:
    import cupy

    with TemporaryDirectory() as directory:
        rates, num_bytes = _rates(Path(directory), settings, budget)
    cupy.get_default_memory_pool().free_all_blocks()
    bus, size = rates.pop("bus"), {"bytes": num_bytes}
    yield Result(
        "upload/bus", "pinned memory to the GPU", summarize(bus, "GB/s"), {"piece": _piece()}
    )
    for place, words in (("cached", "the system's cache"), ("disk", "disk")):
        if f"{place}/load" not in rates:
            budget.left_out[f"upload/{place}"] = "the system does not drop the file from memory"
            continue
        read, loaded = rates[f"{place}/read"], rates[f"{place}/load"]
        yield Result(
            f"upload/{place}/read", f"reading alone, from {words}", summarize(read, "GB/s"), size
        )
        yield Result(
            f"upload/{place}/load", f"loading, from {words}", summarize(loaded, "GB/s"), size
        )
        ceiling = min(float(np.median(read)), float(np.median(bus)))
        yield Result(
            f"upload/{place}/share",
            "of the slower of the two",
            summarize([rate / ceiling for rate in loaded], "x"),
            size,
            at_least=_SHARE_AT_LEAST,
        )


def _rates(
    directory: Path, settings: StartSettings, budget: Budget
) -> tuple[dict[str, list[float]], int]:
    """Write a checkpoint, and read and load it: GB/s of each, and its size."""
    import cupy

    _write_checkpoint(directory, settings.shape)
    files = open_model(directory)
    (path,) = {info.path for info in files.checkpoint.tensors.values()}
    num_bytes = sum(info.num_bytes for info in files.checkpoint.tensors.values())
    dtype = np.dtype(files.checkpoint.stored_dtype)

    def load() -> None:
        load_model(files, dtype, 256, device="cuda")
        cupy.cuda.Device().synchronize()

    load()
    rates: dict[str, list[float]] = {"bus": [_bus() for _ in range(settings.repeats)]}

    def note(name: str, work: Callable[[], object]) -> None:
        rates.setdefault(name, []).append(num_bytes / wall_time(work)() / 1e9)

    for turn in range(settings.repeats):
        if turn and not budget.seconds_left("upload"):
            break
        for name, work in (("read", lambda: _read(path)), ("load", load)):
            note(f"cached/{name}", work)
            if _drop(path):
                note(f"disk/{name}", work)
    return rates, num_bytes


def _piece() -> int:
    return staging.PIECE_BYTES


def _bus(copies: int = 256) -> float:
    """Copy pieces from pinned memory, one after the other; return GB/s."""
    import cupy

    piece = _piece()
    memory = cupy.cuda.alloc_pinned_memory(piece)
    target = cupy.empty(piece, np.uint8)
    stream = cupy.cuda.Stream(non_blocking=True)
    begin = time.perf_counter()
    for _ in range(copies):
        target.data.copy_from_host_async(memory.ptr, piece, stream)
    stream.synchronize()
    return copies * piece / (time.perf_counter() - begin) / 1e9


def _read(path: Path) -> None:
    """Read a file with the threads and pieces of a load, into buffers that nobody empties."""
    piece, file = _piece(), os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    threads = staging.num_threads()
    buffers = [np.empty(piece, np.uint8) for _ in range(threads)]

    def read(thread: int) -> None:
        for begin in range(thread * piece, size, threads * piece):
            os.preadv(file, [buffers[thread]], begin)

    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(threads)))
    finally:
        os.close(file)


def _drop(path: Path) -> bool:
    """Ask the operating system to forget what it has of a file, and return whether it did."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        middle = os.fstat(file).st_size // 2
        try:
            # Answered at once or not at all.
            os.preadv(file, [bytearray(1)], middle, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        return False
    finally:
        os.close(file)
