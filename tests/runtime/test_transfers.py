"""Copies that nobody waits for: buffers take turns, and a read waits for its own copy alone."""

import time

import numpy as np
import pytest
from numba import cuda

from llm_numba.runtime import DoubleBuffer, Download, kind_of, launch, to_device, to_host


@pytest.fixture(params=["cpu", "sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def placed(array: np.ndarray, device: str):
    return array if device == "cpu" else to_device(array, device)


@cuda.jit
def hold(milliseconds, x):
    """Keep the GPU busy, then count up."""
    for _ in range(milliseconds):
        cuda.nanosleep(1_000_000)
    x[0] += 1


def test_each_send_takes_the_beginning_of_the_buffer_that_was_filled(device):
    target = placed(np.zeros(6, np.int32), device)
    staging, buffers = DoubleBuffer(6, np.int32, like=target), []
    for turn in range(5):
        buffer = staging.next_buffer()
        buffers.append(buffer.ctypes.data)
        buffer[:] = 10 * turn
        staging.send(target[: turn + 2])
        assert to_host(target).tolist()[: turn + 2] == [10 * turn] * (turn + 2)
    assert buffers[0] != buffers[1]
    assert buffers[0] == buffers[2] == buffers[4]


def test_what_comes_back_is_what_was_there_when_it_was_asked_for(device):
    arrays = [np.arange(6, dtype=np.int64).reshape(2, 3), np.array([0.5, np.nan], np.float32)]
    there = [placed(array.copy(), device) for array in arrays]
    download = Download(there)
    there[0][...] = 7
    for array, copy in zip(arrays, download.wait(), strict=True):
        assert kind_of(copy) == "host"
        np.testing.assert_array_equal(copy, array)
    assert Download([]).wait() == []


@pytest.mark.gpu
def test_a_buffer_is_not_handed_out_before_its_copy_is_made():
    x, target = to_device(np.zeros(1, np.float32)), to_device(np.zeros(1000, np.int32))
    staging = DoubleBuffer(1000, np.int32, like=target)
    launch(hold, 1, 1, (0, x))
    launch(hold, 1, 1, (100, x))  # the copy waits behind it
    seen = []
    for turn in range(1, 4):
        staging.next_buffer()[:] = turn
        staging.send(target)
        seen.append(Download([target]))
    assert [set(each.wait()[0].tolist()) for each in seen] == [{1}, {2}, {3}]


@pytest.mark.gpu
def test_a_read_does_not_wait_for_what_was_queued_after_it():
    x = to_device(np.zeros(1, np.float32))
    launch(hold, 1, 1, (0, x))
    to_host(x)
    download = Download([x])
    launch(hold, 1, 1, (300, x))
    begin = time.perf_counter()
    assert download.wait()[0][0] == 1
    assert time.perf_counter() - begin < 0.2
    assert to_host(x)[0] == 2
