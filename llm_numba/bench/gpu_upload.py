"""How fast weights come from a file to the GPU.

A file in the operating system's cache is held to the bus, that is copies from pinned memory; one on
the disk to the slower of that and of the disk, read by the same threads when nobody copies. The one
is large, so that what a load costs once weighs little; the other is small, for disks are slow.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copy, disk_usage
from tempfile import TemporaryDirectory

import numpy as np

from llm_numba.bench.budget import Budget
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize, wall_time
from llm_numba.errors import LLMNumbaError
from llm_numba.models import load_model, open_model, resolve_model
from llm_numba.runtime import available_memory, staging

Rates = dict[str, list[float]]  # GB/s

_SHARE_AT_LEAST = 0.8
_NOT_THERE = {
    "cached": "the file does not fit into memory",
    "disk": "the system does not drop the file from memory",
}
_MAX_POSITIONS = 256


def upload_results(
    cached_shape: str, disk_shape: str, repeats: int, budget: Budget
) -> Iterator[Result]:
    """Measure the bus, and reading and loading of a checkpoint of each shape.

    Parameters
    ----------
    cached_shape, disk_shape : str
        Of the checkpoint that lies in the operating system's cache, and of that on the disk.
    repeats : int
        Of each measurement, if there is time.
    budget : Budget
        With a part "upload".

    Yields
    ------
    Result
        GB/s, and the share of what loading is held to.

    Raises
    ------
    LLMNumbaError
        If there is no room for a checkpoint.
    """
    bus = [_bus() for _ in range(repeats)]
    yield Result(
        "upload/bus",
        "pinned memory to the GPU",
        summarize(bus, "GB/s"),
        {"piece": staging.PIECE_BYTES},
    )
    cases = (("cached", "the system's cache", cached_shape), ("disk", "the disk", disk_shape))
    for place, words, shape in cases:
        with TemporaryDirectory() as directory:
            num_bytes = write_checkpoint(Path(directory), shape)
            rates = _rates(Path(directory), num_bytes, place == "disk", repeats, budget)
        if not rates:
            budget.left_out[f"upload/{place}"] = _NOT_THERE[place]
            continue
        size = {"bytes": num_bytes, "model": shape}
        for name, what in (("read", "reading alone"), ("load", "loading")):
            described = f"{shape}: {what}, from {words}"
            yield Result(f"upload/{place}/{name}", described, summarize(rates[name], "GB/s"), size)
        bounds = {"cached": [bus], "disk": [bus, rates["read"]]}[place]
        ceiling = min(float(np.median(each)) for each in bounds)
        told = {"cached": "the bus", "disk": "the slower of disk and bus"}[place]
        yield Result(
            f"upload/{place}/share",
            f"{shape}: loading, as a part of {told}",
            summarize([rate / ceiling for rate in rates["load"]], "x"),
            size,
            at_least=_SHARE_AT_LEAST,
        )


def write_checkpoint(directory: Path, shape: str) -> int:
    """Write a checkpoint of a shape; its bytes are noise, and the same in every tensor.

    Parameters
    ----------
    directory : Path
        An existing, empty directory.
    shape : str
        A model's that comes with the package.

    Returns
    -------
    int
        Bytes of all tensors.

    Raises
    ------
    LLMNumbaError
        If there is no room for it.
    """
    source = resolve_model(f"random:{shape}")
    copy(source / "config.json", directory)
    tensors = open_model(source).checkpoint.tensors
    needed, free = sum(each.num_bytes for each in tensors.values()), disk_usage(directory).free
    if needed > free:
        raise LLMNumbaError(
            f"{directory} has room for {free / 1e9:.1f} GB, and a checkpoint of {shape} takes "
            f"{needed / 1e9:.1f}.",
            "Name another place in TMPDIR, or a smaller shape.",
        )
    header, end = {}, 0
    for name, info in tensors.items():
        begin, end = end, end + info.num_bytes
        offsets = [begin, end]
        header[name] = {"dtype": info.storage, "shape": info.shape, "data_offsets": offsets}
    written = json.dumps(header).encode()
    dtype = next(iter(tensors.values())).dtype
    noise = np.random.default_rng(0).normal(size=1 << 20).astype(dtype).view(np.uint8)
    noise = np.resize(noise, max(info.num_bytes for info in tensors.values()))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for info in tensors.values():
            for begin in range(0, info.num_bytes, staging.PIECE_BYTES):
                file.write(noise[begin : min(begin + staging.PIECE_BYTES, info.num_bytes)])
    return end


def _rates(
    directory: Path, num_bytes: int, from_disk: bool, repeats: int, budget: Budget
) -> Rates | None:
    """Read and load a checkpoint, each several times; nothing if it is not where it should be."""
    import cupy

    # What a cache holds counts as available: the file too.
    if not from_disk and num_bytes > available_memory():
        return None
    files = open_model(directory)
    (path,) = {info.path for info in files.checkpoint.tensors.values()}
    dtype = np.dtype(files.checkpoint.stored_dtype)

    def load() -> None:
        load_model(files, dtype, _MAX_POSITIONS, device="cuda")
        cupy.cuda.Device().synchronize()

    load()
    rates: Rates = {"read": [], "load": []}
    works: dict[str, Callable[[], object]] = {"read": lambda: _read(path), "load": load}
    for turn in range(repeats):
        if turn and not budget.seconds_left("upload"):
            break
        for name, work in works.items():
            if from_disk and not _drop(path):
                return None
            rates[name].append(num_bytes / wall_time(work)() / 1e9)
    cupy.get_default_memory_pool().free_all_blocks()
    return rates


def _bus(copies: int = 256) -> float:
    """Copy pieces from pinned memory, one after the other; return GB/s."""
    import cupy

    piece = staging.PIECE_BYTES
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
    piece, file = staging.PIECE_BYTES, os.open(path, os.O_RDONLY)
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
        os.fsync(file)  # what waits to be written cannot be dropped
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
