"""Kernels that may begin before the one before them has ended: who says so, and who allows it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.runtime import capture, launch, overlapping, starts_early, to_device, to_host
from llm_numba.runtime.overlap import begins_early


@cuda.jit
def plain(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] = x[i] * 3 + 1


@starts_early
@cuda.jit
def early(x):
    ptx.release_next_kernel()
    ptx.await_previous_kernel()
    i = cuda.grid(1)
    if i < x.size:
        x[i] = x[i] * 3 + 1


def test_both_the_kernel_and_who_launches_it_must_agree():
    assert not begins_early(early)
    with overlapping():
        assert begins_early(early)
        assert not begins_early(plain)
        with overlapping(False):
            assert not begins_early(early)
        assert begins_early(early)
    assert not begins_early(early)


def test_what_one_thread_allows_holds_for_no_other():
    with overlapping(), ThreadPoolExecutor(1) as other:
        assert not other.submit(begins_early, early).result()


def test_an_error_ends_the_permission():
    with pytest.raises(ZeroDivisionError), overlapping():
        1 / 0  # noqa: B018
    assert not begins_early(early)


def test_a_kernel_that_never_waits_cannot_be_marked():
    with pytest.raises(ValueError, match="plain starts early and never calls await"):
        starts_early(plain)


def test_in_the_simulator_a_kernel_begins_when_the_one_before_has_ended():
    x = to_device(np.arange(40, dtype=np.float32), "sim")
    with overlapping():
        for _ in range(3):
            launch(early, 2, 32, (x,))
    np.testing.assert_array_equal(to_host(x), 27 * np.arange(40) + 13)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_chain_on_a_gpu_gives_what_it_gives_without_overlap(graph):
    """200 kernels, each of which reads what the one before wrote, and some that do not wait."""
    values = np.arange(100_000, dtype=np.int32)
    x = to_device(values, "cuda")

    def chain():
        for number in range(200):
            launch(plain if number % 7 == 3 else early, (len(values) + 255) // 256, 256, (x,))

    with overlapping():
        launch(early, 1, 32, (x[:0],))
        launch(plain, 1, 32, (x[:0],))
        capture(chain).launch() if graph else chain()
    expected = values
    for _ in range(200):
        expected = expected * np.int32(3) + np.int32(1)
    np.testing.assert_array_equal(to_host(x), expected)
