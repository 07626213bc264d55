"""Compiled kernels on disk: what is written is read, by anybody, whole or not at all."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_numba.runtime.cubins import Cubin, CubinCache, cubin_cache

CUBIN = Cubin("_ZN6kernelE", True, b"\x7fELF\n\n machine code \x00" * 40)


@pytest.fixture
def cache(tmp_path) -> CubinCache:
    return CubinCache(tmp_path / "below" / "cubins")


def test_what_was_written_is_read(cache):
    cache.write("key", CUBIN)
    assert cache.read("key") == CUBIN
    assert cache.read("another") is None


def test_nobody_else_may_write_there(cache):
    cache.write("key", CUBIN)
    assert cache.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("position", [0, 20, 90, 130, -1])
def test_a_flipped_bit_anywhere_is_found(cache, position):
    cache.write("key", CUBIN)
    (path,) = cache.files()
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    assert cache.read("key") is None
    cache.write("key", CUBIN)
    assert cache.read("key") == CUBIN


@pytest.mark.parametrize("kept", [0, 1, 40, 100, 500])
def test_a_file_that_was_cut_off_is_found(cache, kept):
    cache.write("key", CUBIN)
    (path,) = cache.files()
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.read("key") is None


def test_a_whole_file_of_another_kind_is_no_cubin(cache):
    cache.write("key", CUBIN)
    (path,) = cache.files()
    path.write_bytes(path.read_bytes().replace(b"cubin 1", b"cubin 2"))
    assert cache.read("key") is None


def test_where_nothing_can_be_written_nothing_is(tmp_path):
    (tmp_path / "file").touch()
    cache = CubinCache(tmp_path / "file" / "cubins")
    cache.write("key", CUBIN)
    assert cache.read("key") is None
    assert cache.files() == []


def test_what_somebody_else_wrote_is_read_where_its_last_use_cannot_be_noted(cache, monkeypatch):
    """A directory on a disk that is only read, or in an image that was made by another user."""
    cache.write("key", CUBIN)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.read("key") == CUBIN


def test_a_write_that_fails_leaves_nothing_behind(cache, monkeypatch):
    cache.write("key", CUBIN)

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    cache.write("other", CUBIN)
    assert [path.name for path in cache.directory.iterdir()] == ["key.cubin"]


def test_ctrl_c_behind_the_last_step_of_a_write_is_not_lost(cache, monkeypatch):
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.write("key", CUBIN)
    assert cache.read("key") == CUBIN


def test_what_was_unused_for_longest_goes_first(tmp_path):
    size = CubinCache(tmp_path / "one")
    size.write("key", CUBIN)
    one = size.files()[0].stat().st_size
    cache = CubinCache(tmp_path / "cubins", limit_bytes=3 * one)
    for age, key in enumerate(("a", "b", "c")):
        cache.write(key, CUBIN)
        os.utime(cache.directory / f"{key}.cubin", (age, age))
    assert cache.read("a") == CUBIN  # and is now the youngest
    cache.write("d", CUBIN)
    assert [path.stem for path in cache.files()] == ["a", "c", "d"]


def test_a_file_that_another_process_removed_stops_nobody_from_making_room(tmp_path, monkeypatch):
    cache = CubinCache(tmp_path, limit_bytes=10)
    files = CubinCache.files
    monkeypatch.setattr(
        CubinCache, "files", lambda self: [self.directory / "gone.cubin", *files(self)]
    )
    cache.write("key", CUBIN)
    assert files(cache) == []


def test_what_is_larger_than_the_limit_is_not_kept(tmp_path):
    cache = CubinCache(tmp_path, limit_bytes=10)
    cache.write("key", CUBIN)
    assert cache.files() == []


def test_clearing_removes_entries_whole_and_begun_and_nothing_else(cache):
    cache.write("a", CUBIN)
    (cache.directory / "b.cubin.x1y2").write_bytes(b"of a process that was killed")
    (cache.directory / "notes.txt").touch()
    assert cache.clear() == 2
    assert [path.name for path in cache.directory.iterdir()] == ["notes.txt"]


def write_and_read(directory: Path, number: int) -> int:
    cache, sound = CubinCache(directory, limit_bytes=20_000), 0
    for turn in range(60):
        key = f"k{(turn + number) % 7}"
        found = cache.read(key)
        sound += found is None or found.code == key.encode() * 3000
        cache.write(key, Cubin(key, False, key.encode() * 3000))
    return sound


def test_many_writers_and_readers_never_see_half_a_file(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sound = list(pool.map(write_and_read, [tmp_path] * 8, range(8)))
    assert sound == [60] * 8
    assert all(path.suffix == ".cubin" for path in tmp_path.iterdir())


# -- Where it lies ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "0", "off"])
def test_it_can_be_switched_off(value, monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_CACHE", value)
    assert cubin_cache() is None


def test_the_environment_names_its_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_NUMBA_CACHE", str(tmp_path))
    assert cubin_cache().directory == tmp_path
    monkeypatch.delenv("LLM_NUMBA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cubin_cache().directory == tmp_path / "llm_numba" / "cubins"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cubin_cache().directory == tmp_path / ".cache" / "llm_numba" / "cubins"
    monkeypatch.setenv("LLM_NUMBA_CACHE", "~/mine")
    assert cubin_cache().directory == tmp_path / "mine"


# -- On a GPU -----------------------------------------------------------------------------------

# A process that runs some kernels, one of them with blocks that wait for each other, and says
# whether they were compiled.
SOME_KERNELS = """
import json
import numpy as np
from numba import cuda
from llm_numba.kernels.reduce import row_sum
from llm_numba.kernels.softmax import softmax
from llm_numba.runtime import Launch, gpu, launch, to_device, to_host

@cuda.jit
def meet(x):
    grid = cuda.cg.this_grid()
    if cuda.grid(1) == 0:
        x[0] = 7
    grid.sync()
    x[cuda.grid(1) + 1] = x[0]

compiled, compile_one = [], gpu._compile
gpu._compile = lambda kernel, *rest: (compiled.append(kernel), compile_one(kernel, *rest))[1]
x = to_device(np.arange(210, dtype=np.float32).reshape(3, 70) / 100, "cuda")
met = to_device(np.zeros(65, np.int32), "cuda")
launch(meet, 2, 32, (met,))
values = [to_host(row_sum(x)).tolist(), to_host(softmax(x)).tolist(), to_host(met).tolist()]
resources = gpu.resources_on_gpu(Launch(meet, (2,), (32,), (met,)))
print(json.dumps([values, resources, len(compiled)]))
"""


@pytest.mark.gpu
def test_a_second_process_compiles_nothing_unless_a_file_was_damaged(tmp_path):
    environment = os.environ | {
        "LLM_NUMBA_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run():
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", SOME_KERNELS], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return *json.loads(done.stdout), time.perf_counter() - begin

    values, resources, compiled, cold = run()
    assert values[2] == [7] * 65
    assert compiled == len(CubinCache(tmp_path).files()) >= 3
    again, same_resources, none, warm = run()
    assert (again, same_resources, none) == (values, resources, 0)
    assert warm < cold
    damaged = CubinCache(tmp_path).files()[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    third, _, one, _ = run()
    assert (third, one) == (values, 1)
