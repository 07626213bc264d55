"""Kernels whose blocks wait for each other: all of them begin together, or none."""

import numpy as np
import pytest
from numba import cuda

from llm_numba.errors import LaunchError
from llm_numba.kernels import ptx
from llm_numba.runtime import capture, launch, starts_together, to_device, to_host, zeros
from llm_numba.runtime.together import must_start_together


@starts_together
@cuda.jit
def meet(flag, seen):
    if cuda.threadIdx.x == 0:
        ptx.add_release(flag, 0, np.int32(1))
        while ptx.load_acquire(flag, 0) < cuda.gridDim.x:
            pass
        seen[cuda.blockIdx.x] = ptx.load_acquire(flag, 0)


@cuda.jit
def alone(flag):
    flag[0] = 1


def test_a_kernel_says_so_itself():
    assert must_start_together(meet)
    assert not must_start_together(alone)


def test_in_the_simulator_all_blocks_run_side_by_side():
    flag, seen = zeros(1, np.int32, "sim"), zeros(5, np.int32, "sim")
    launch(meet, 5, 32, (flag, seen))
    assert to_host(seen).tolist() == [5] * 5


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_blocks_that_fit_meet(graph):
    flag, seen = zeros(1, np.int32, "cuda"), zeros(20, np.int32, "cuda")
    launch(meet, 20, 1024, (flag, seen))
    if graph:
        recorded = capture(lambda: launch(meet, 20, 1024, (flag, seen)))
        flag[...] = 0
        seen[...] = 0
        recorded.launch()
    assert to_host(seen).tolist() == [20] * 20


@pytest.mark.gpu
def test_too_many_blocks_are_an_error_and_no_endless_wait():
    flag, seen = to_device(np.zeros(1, "i4"), "cuda"), zeros(100_000, np.int32, "cuda")
    with pytest.raises(LaunchError, match=r"100000 blocks of kernel 'meet' .* no room"):
        launch(meet, 100_000, 1024, (flag, seen))
    launch(meet, 2, 32, (flag, seen))
    assert to_host(seen)[:2].tolist() == [2, 2]
