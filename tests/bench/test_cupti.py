"""CUPTI's records, as a stand-in for the library hands them out."""

import ctypes
import struct

import pytest

from llm_numba.bench import cupti as module
from llm_numba.bench.cupti import Cupti, KernelRun
from llm_numba.errors import DeviceError

KERNEL, MEMCPY, BYTES = 10, 1, 160


class Library:
    """Answers as CUPTI does: asks for a buffer, fills it, and gives it back when flushed."""

    def __init__(self, records=(), refuses=""):
        self.records, self.refuses = records, refuses
        self.calls = []
        self.names = []  # kept alive: records hold their addresses

    def __getattr__(self, function):
        answers = {
            "cuptiActivityRegisterCallbacks": self._register,
            "cuptiActivityFlushAll": self._flush,
            "cuptiActivityGetNextRecord": self._next_record,
        }

        def call(*arguments):
            self.calls.append(function)
            if function == self.refuses:
                return 15
            return answers.get(function, lambda *_: 0)(*arguments)

        return call

    def _register(self, requested, completed):
        self.requested, self.completed = requested, completed
        return 0

    def _flush(self, flag):
        buffer, size, most = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        self.requested(*map(ctypes.pointer, (buffer, size, most)))
        assert buffer.value % 8 == 0
        for i, (kind, begin, end, name) in enumerate(self.records):
            self.names.append(ctypes.create_string_buffer(name.encode()))
            record = bytearray(BYTES)
            struct.pack_into("<I", record, 0, kind)
            struct.pack_into("<QQ", record, 16, begin, end)
            struct.pack_into("<Q", record, 104, ctypes.addressof(self.names[-1]))
            ctypes.memmove(buffer.value + i * BYTES, bytes(record), BYTES)
        self.next = 0
        self.completed(None, 0, buffer, size, len(self.records) * BYTES)
        return 0

    def _next_record(self, buffer, valid, record):
        if self.next * BYTES >= valid.value:
            return 12  # CUPTI_ERROR_MAX_LIMIT_REACHED
        record._obj.value = buffer.value + self.next * BYTES
        self.next += 1
        return 0


def test_kernels_come_in_the_order_in_which_they_began():
    library = Library([(KERNEL, 30, 45, "second"), (KERNEL, 10, 29, "first")])
    runs = Cupti(library).watch(lambda: None)
    assert runs == [KernelRun(10, 29, "first"), KernelRun(30, 45, "second")]


def test_what_is_no_kernel_is_left_out():
    library = Library([(MEMCPY, 1, 2, "copy"), (KERNEL, 3, 4, "kernel")])
    assert [run.name for run in Cupti(library).watch(lambda: None)] == ["kernel"]


def test_a_second_look_begins_anew():
    watcher = Cupti(Library([(KERNEL, 1, 2, "kernel")]))
    assert watcher.watch(lambda: None) == watcher.watch(lambda: None)


def test_it_looks_only_while_the_work_runs():
    library = Library()
    Cupti(library).watch(lambda: library.calls.append("work"))
    assert library.calls[1:] == [
        "cuptiActivityEnable", "work", "cuptiActivityFlushAll", "cuptiActivityGetNextRecord",
        "cuptiActivityDisable",
    ]  # fmt: skip


def test_it_stops_looking_when_the_work_fails():
    library = Library()

    def fail():
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        Cupti(library).watch(fail)
    assert library.calls[-1] == "cuptiActivityDisable"


@pytest.mark.parametrize("refuses", ["cuptiActivityRegisterCallbacks", "cuptiActivityEnable"])
def test_a_refusal_names_what_may_be_in_the_way(refuses):
    with pytest.raises(DeviceError, match=f"{refuses} returned 15") as failure:
        Cupti(Library(refuses=refuses)).watch(lambda: None)
    assert "profilers" in failure.value.remedy


def test_without_the_library_the_remedy_names_its_package(monkeypatch):
    def missing(name, *_, **__):
        raise OSError(name)

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    with pytest.raises(DeviceError, match="not installed") as failure:
        module._load()
    assert "nvidia-cuda-cupti" in failure.value.remedy
