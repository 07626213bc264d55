"""The memory of graphs: pieces of slabs, taken and given back, with a made-up CuPy."""

import contextlib
import gc
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.runtime import Arena

MIB = 2**20


class Pointer:
    def __init__(self, memory, offset):
        self.mem, self.ptr = memory, memory.ptr + offset


class FakeArray:
    """An array that owns its piece for as long as it lives."""

    def __init__(self, shape, dtype, data):
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), data
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize


@pytest.fixture(autouse=True)
def slabs(monkeypatch) -> list[int]:
    """A driver that hands out memory at 1 GiB, at 2 GiB, and so on; and what was asked for."""
    asked: list[int] = []
    addresses = itertools.count(2**30, 2**30)

    def alloc(size):
        asked.append(size)
        return SimpleNamespace(ptr=next(addresses))

    def unowned(ptr, size, owner, device):
        return SimpleNamespace(ptr=ptr, size=size, owner=owner)

    cuda = SimpleNamespace(
        alloc=alloc,
        UnownedMemory=unowned,
        MemoryPointer=Pointer,
        runtime=SimpleNamespace(getDevice=lambda: 0),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, ndarray=FakeArray))
    return asked


def test_a_piece_comes_back_when_its_array_is_gone(slabs):
    arena = Arena()
    first = arena.empty((3, 5), "float32")
    address = first.data.ptr
    second = arena.empty(7, "int64")
    assert second.data.ptr >= address + first.nbytes
    del first
    assert arena.empty((4, 4), "float32").data.ptr == address
    assert slabs == [2 * MIB]


def test_a_second_run_of_the_same_work_takes_no_more_memory(slabs):
    arena = Arena()

    def work():
        r = arena.empty(3 * MIB, "uint8")
        for _ in range(20):
            inner = arena.empty(5 * MIB, "uint8")
            r = arena.empty(3 * MIB, "uint8")
            del inner
        return r

    work()
    once = arena.num_bytes
    assert once == sum(slabs)
    assert once <= 14 * MIB  # two of the stream and one between, each in whole pages of 2 MiB
    work()
    assert arena.num_bytes == once


def test_a_view_does_not_hold_its_memory():
    arena = Arena()
    array = arena.empty((2, 3), "float32")
    view = arena.view(array)
    assert (view.shape, view.dtype, view.data.ptr) == ((2, 3), array.dtype, array.data.ptr)
    del array
    assert arena.empty(6, "float32").data.ptr == view.data.ptr


def test_what_is_not_the_arenas_is_not_lent():
    """Nobody but its array keeps that memory."""
    arena, other = Arena(), Arena()
    array, own = other.empty((2, 3), "float32"), arena.empty(6, "float32")
    assert arena.view(array) is array
    assert arena.view(own) is not own


def test_an_array_of_no_elements_is_an_array_too():
    arena = Arena()
    arrays = [arena.empty((0, 4), "float32") for _ in range(2)]
    assert arrays[0].data.ptr != arrays[1].data.ptr


@pytest.mark.parametrize("seed", range(3))
def test_pieces_never_overlap_and_all_holes_close(seed):
    """A few thousand arrays of all sizes, made and dropped in any order."""
    rng = np.random.default_rng(seed)
    arena, live = Arena(), []
    for _ in range(2000):
        if live and rng.random() < 0.5:
            live.pop(rng.integers(len(live)))
        else:
            live.append(arena.empty(int(2 ** rng.uniform(0, 22)), "uint8"))
        places = sorted((array.data.ptr, array.data.ptr + array.nbytes) for array in live)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(places))
        assert all(begin % 512 == 0 for begin, _ in places)
    live.clear()
    check_all_free(arena)


@contextlib.contextmanager
def collecting_after(count: int) -> Iterator[None]:
    """Let Python's garbage collector come once, after so many more objects that it looks after."""
    usual = gc.get_threshold()
    gc.set_threshold(gc.get_count()[0] + count, 10**6, 10**6)
    gc.enable()
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@pytest.mark.parametrize("count", range(24))
def test_arrays_that_are_collected_while_a_hole_is_looked_for_disturb_nothing(count):
    """As those of an error's frames are, which refer to each other."""
    arena = Arena()
    gc.collect()
    gc.disable()
    try:
        arrays = [arena.empty(1000 * size, "uint8") for size in (7, 2, 9, 4, 3, 5)]
        for array in arrays[1::2]:
            array.itself = array
        live = arrays[::2]
        del arrays, array
        with collecting_after(count):
            live += [arena.empty(1000 * size, "uint8") for size in (2, 8, 6, 3)]
    finally:
        gc.enable()
    places = sorted((array.data.ptr, array.data.ptr + array.nbytes) for array in live)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(places))
    gc.collect()
    live.clear()
    check_all_free(arena)


def check_all_free(arena: Arena) -> None:
    """With the next piece all that came back is in the slabs' holes, and that is cut off one."""
    _, begin, end = arena.take(1)
    assert all(len(holes) == 1 for holes in arena._holes)
    assert sum(end - begin for ((begin, end),) in arena._holes) == arena.num_bytes - (end - begin)
