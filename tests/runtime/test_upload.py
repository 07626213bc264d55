"""Small arrays go to a device together; a cache begins as zeros there."""

import resource
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.runtime import kind_of, to_device, to_host, upload, write_to, zeros


def address(array) -> int:
    return array.data.ptr if kind_of(array) == "cuda" else array.ctypes.data


def test_arrays_of_many_kinds_arrive_in_one_allocation(device):
    arrays = [
        np.arange(3, dtype=np.int32),
        np.array([2**64 - 1, 5], np.uint64),
        np.zeros((2, 0), np.float32),
        np.array([[True], [False]]),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,  # not in C order
        np.array([1.5], ml_dtypes.bfloat16),
    ]
    there = upload(arrays, like=to_device(np.zeros(1), device))
    begin = address(there[0])
    for array, copy in zip(arrays, there, strict=True):
        assert kind_of(copy) == device
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(to_host(copy), array)
        assert copy.flags.c_contiguous
        assert address(copy) % 16 == 0 or not copy.size
        assert address(copy) - begin < 256 or not copy.size
    assert upload([], like=there[0]) == []


def test_on_the_host_nothing_is_copied():
    arrays = [np.arange(3), np.arange(4)]
    assert all(a is b for a, b in zip(arrays, upload(arrays, like=np.zeros(1)), strict=True))


def test_to_upload_where_no_array_lies_is_refused():
    with pytest.raises(KernelArgumentError, match="'like'"):
        upload([np.zeros(1)], like=[1, 2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_takes_the_format_of_its_place(device, dtype):
    out = zeros((4, 3), dtype, device)
    rows = np.arange(6, dtype=np.float64).reshape(3, 2).T
    write_to(out[1:3], rows)
    assert to_host(out).astype(np.float64).tolist() == [[0] * 3, *rows.tolist(), [0] * 3]


@pytest.mark.parametrize("shape", [(), (0, 3), 5, (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_zeros_are_zero_and_aligned(device, shape, dtype):
    array = zeros(shape, dtype, device)
    assert kind_of(array) == device
    assert (array.shape, array.dtype) == (np.zeros(shape).shape, np.dtype(dtype))
    assert not to_host(array).astype(np.float32).any()
    assert address(array) % 256 == 0 or not array.size


def test_zeros_of_the_host_are_numpys():
    assert kind_of(zeros((2, 3), "float64", "cpu")) == "host"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_simulated_cache_takes_memory_only_as_it_fills():
    before = resident_bytes()
    cache = zeros((2**10, 2**18), "float32", "sim")
    cache[-1, -1] = 1
    assert cache[-1, -1] == 1
    assert resident_bytes() - before < cache.nbytes / 10


def test_an_unknown_device_is_refused():
    with pytest.raises(DeviceError, match="'tpu'"):
        zeros(1, "float32", "tpu")
