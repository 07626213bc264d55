"""Files on their way through pinned memory, on a GPU that copies as late as it may."""

import ctypes
import itertools
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from llm_numba.errors import CheckpointError
from llm_numba.runtime import staging
from llm_numba.runtime.staging import Staging

PIECE = 64


class DeviceArray(np.ndarray):
    """An array of the GPU."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


class LateStream:
    """Does what was queued only when somebody waits for it."""

    numbers = itertools.count(1)

    def __init__(self, non_blocking):
        assert non_blocking
        self.ptr, self.queue, self.lock = next(self.numbers), [], threading.RLock()
        self.done = self.waited = 0

    def use(self):
        pass

    def wait_event(self, event):
        self.waited += 1

    def add(self, work):
        with self.lock:
            self.queue.append(work)

    def catch_up(self, position):
        with self.lock:
            while self.done < position:
                self.queue[self.done]()
                self.done += 1

    def synchronize(self):
        self.catch_up(len(self.queue))


class LateGPU:
    """CuPy, as far as a staging needs it, and what became of its memory."""

    def __init__(self):
        self.streams, self.pinned, self.lost, self.freed = [], {}, [], []
        self.most_pinned = 0

        class Event:
            stream, position = None, 0

            def __init__(self, disable_timing):
                assert disable_timing

            @property
            def done(self):
                return self.stream is None or self.stream.done >= self.position

            def record(self, stream):
                self.stream, self.position = stream, len(stream.queue)

            def synchronize(self):
                self.stream.catch_up(self.position)

        runtime = SimpleNamespace(
            hostRegister=self.pin, hostUnregister=self.unpin, memcpyAsync=self.copy
        )
        self.module = SimpleNamespace(
            empty=on_gpu,
            get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=self.freed.append),
            cuda=SimpleNamespace(
                Device=lambda: SimpleNamespace(use=lambda: None),
                Stream=self.new_stream, Event=Event, runtime=runtime,
                get_current_stream=lambda: SimpleNamespace(record=lambda: None),
            ),
        )  # fmt: skip

    def pin(self, address, num_bytes, flags):
        assert flags == 0
        assert address % (2 << 20) == 0
        self.pinned[address] = num_bytes
        self.most_pinned = max(self.most_pinned, sum(self.pinned.values()))

    def unpin(self, address):
        del self.pinned[address]
        self.lost += [work for stream in self.streams for work in stream.queue[stream.done :]]

    def new_stream(self, non_blocking):
        self.streams.append(LateStream(non_blocking))
        return self.streams[-1]

    def copy(self, target, source, num_bytes, kind, stream):
        if self.code:
            raise RuntimeError(f"error {self.code}")
        assert kind == 1
        (begin,) = (each for each, size in self.pinned.items() if 0 <= source - each < size)
        assert source - begin + num_bytes <= self.pinned[begin]
        (found,) = (each for each in self.streams if each.ptr == stream)
        found.add(lambda: ctypes.memmove(target, source, num_bytes))

    code = 0

    def convert(self, x, out):
        """Queue a conversion; half of the values, so that nobody takes a plain copy for it."""
        self.streams[-1].add(lambda: np.divide(x, 2, out=out, casting="unsafe"))


@pytest.fixture
def gpu(monkeypatch):
    found = LateGPU()
    monkeypatch.setitem(sys.modules, "cupy", found.module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", found.module.cuda)
    monkeypatch.setattr(staging, "PIECE_BYTES", PIECE)
    yield found
    assert not found.pinned
    assert not found.lost
    assert found.freed == found.streams
    assert not [each for each in threading.enumerate() if each.name.startswith("upload")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(np.random.default_rng(0).bytes(50_000))
    with path.open("rb") as opened:
        yield opened


def on_gpu(shape, dtype):
    return np.zeros(shape, dtype).view(DeviceArray)


@pytest.mark.parametrize("threads", [1, 3, 12])
@pytest.mark.parametrize("stored", ["uint8", "uint16", "float64"])
def test_every_number_comes_to_its_place(gpu, file, threads, stored, monkeypatch):
    monkeypatch.setattr(staging, "_THREADS", threads)
    monkeypatch.setattr(staging.os, "cpu_count", lambda: 16)
    data, stored = np.fromfile(file.name, np.uint8), np.dtype(stored)
    sizes = [1, 7, PIECE // stored.itemsize, 300, 801, 0, 2000]
    targets, begin = [], 5
    with Staging(50_000) as upload:
        for size in sizes:
            targets.append(on_gpu((size,), stored))
            upload.send(file.fileno(), begin, targets[-1], stored, gpu.convert)
            begin += size * stored.itemsize
    found = np.concatenate([np.asarray(each).view(np.uint8) for each in targets])
    np.testing.assert_array_equal(found, data[5:begin])
    assert gpu.streams[0].waited == len(sizes)
    assert gpu.most_pinned == 2 * PIECE * threads


def test_other_formats_are_converted_where_they_land(gpu, file):
    stored = np.fromfile(file.name, np.uint16)[:1000]
    target = on_gpu((20, 50), np.float32)
    with Staging(50_000) as upload:
        upload.send(file.fileno(), 0, target, stored.dtype, gpu.convert)
    np.testing.assert_array_equal(target.reshape(-1), stored.astype(np.float32) / 2)


def test_after_waiting_more_can_be_sent(gpu, file):
    data = np.fromfile(file.name, np.uint8)
    with Staging(50_000) as upload:
        for begin in (0, 1000):
            target = on_gpu((500,), np.uint8)
            upload.send(file.fileno(), begin, target, target.dtype, gpu.convert)
            upload.wait()
            np.testing.assert_array_equal(target, data[begin : begin + 500])


def test_a_file_that_ends_too_early_is_an_error_and_leaves_nothing(gpu, file):
    target = on_gpu((20_000,), np.uint8)
    with pytest.raises(CheckpointError, match="ended after 50000 bytes"), Staging(50_000) as upload:
        upload.send(file.fileno(), 40_000, target, target.dtype, gpu.convert)


def test_an_error_of_the_caller_is_the_one_that_is_seen(gpu, file):
    def send_and_fail():
        with Staging(50_000) as upload:
            upload.send(file.fileno(), 0, target, target.dtype, gpu.convert)
            raise KeyError("absent")

    target = on_gpu((60_000,), np.uint8)
    with pytest.raises(KeyError, match="absent"):
        send_and_fail()


def test_what_fails_in_a_thread_is_told_who_waits(gpu, file):
    def fail(x, out):
        raise MemoryError("no more")

    target = on_gpu((100,), np.float32)
    with pytest.raises(MemoryError, match="no more"), Staging(50_000) as upload:
        upload.send(file.fileno(), 0, target, np.dtype(np.uint16), fail)


def test_what_was_pinned_is_given_back_where_a_buffer_cannot_be_made(gpu, monkeypatch):
    def fail(memory, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "_Buffer", fail)
    with pytest.raises(KeyboardInterrupt):
        Staging(50_000)
    assert gpu.most_pinned > 0
    assert not gpu.pinned
    gpu.streams.clear()  # nothing was allocated on it


def test_nothing_has_to_be_sent(gpu):
    with Staging(50_000) as upload:
        upload.wait()


@pytest.mark.parametrize(
    ("num_bytes", "threads"), [(0, 1), (8 * PIECE - 1, 1), (8 * PIECE, 2), (10**6, 12)]
)
def test_a_small_file_pins_little(gpu, file, monkeypatch, num_bytes, threads):
    monkeypatch.setattr(staging, "_THREADS", 12)
    monkeypatch.setattr(staging.os, "cpu_count", lambda: 16)
    target = on_gpu((5000,), np.uint8)
    with Staging(num_bytes) as upload:
        upload.send(file.fileno(), 0, target, target.dtype, gpu.convert)
    assert gpu.most_pinned == 2 * PIECE * threads
    np.testing.assert_array_equal(target, np.fromfile(file.name, np.uint8)[:5000])


def test_a_copy_that_the_driver_refuses_is_told_who_waits(gpu, file):
    gpu.code = 700
    target = on_gpu((10,), np.uint8)
    with pytest.raises(RuntimeError, match="700"), Staging(50_000) as upload:
        upload.send(file.fileno(), 0, target, target.dtype, gpu.convert)
