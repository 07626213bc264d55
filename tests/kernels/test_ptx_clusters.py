"""Clusters: what blocks write into each other's shared memory arrives; wrong use is told."""

import numpy as np
import pytest
from numba import cuda, float32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.room import room_of
from llm_numba.simulator import simulate
from llm_numba.simulator.clusters import MOST_BLOCKS, cluster_of, in_clusters
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    OutOfBoundsError,
    RaceError,
    UninitializedReadError,
    UnsupportedError,
)

BLOCKS, THREADS = 4, 32


@in_clusters(BLOCKS)
@cuda.jit
def gather(x, out):
    """Each thread sends its number to all blocks; each block writes all of its cluster's."""
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    t, rank = cuda.threadIdx.x, ptx.cluster_rank()
    ptx.cluster_sync()
    for block in range(BLOCKS):
        ptx.cluster_store(numbers, rank * THREADS + t, x[cuda.blockIdx.x, t], block)
    ptx.cluster_sync()
    for block in range(BLOCKS):
        out[cuda.blockIdx.x, block, t] = numbers[block, t]


@in_clusters(BLOCKS)
@cuda.jit
def fetch(x, out):
    """Each thread lays its number down, and eight threads of each block read all of them."""
    numbers = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    numbers[t] = x[cuda.blockIdx.x, t]
    ptx.cluster_sync()
    if t < THREADS // 4:
        for block in range(BLOCKS):
            quad = ptx.cluster_load16(numbers, 4 * t, block)
            for e in range(4):
                out[cuda.blockIdx.x, block, 4 * t + e] = quad[e]
    ptx.cluster_sync()


def operands(blocks=3 * BLOCKS):
    x = np.random.default_rng(0).normal(size=(blocks, THREADS)).astype(np.float32)
    return x, np.zeros((blocks, BLOCKS, THREADS), np.float32)


def expected(x):
    return x.reshape(-1, BLOCKS, THREADS).repeat(BLOCKS, axis=0)


@pytest.mark.parametrize("kernel", [gather, fetch])
def test_each_block_has_what_all_of_its_cluster_have(kernel, device):
    x, out = operands()
    on_device = [runtime.to_device(each, device) for each in (x, out)]
    if not room_of(on_device[0]).has_clusters:
        pytest.skip("this GPU has no clusters")
    runtime.launch(kernel, 3 * BLOCKS, THREADS, tuple(on_device))
    np.testing.assert_array_equal(runtime.to_host(on_device[1]), expected(x))


@pytest.mark.parametrize("kernel", [gather, fetch])
@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_matter_which_thread_runs_first(seed, kernel):
    x, out = operands()
    simulate(kernel, 3 * BLOCKS, THREADS, (x, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out, expected(x))


def test_clusters_stay_together_when_not_all_blocks_are_resident():
    # The simulator runs 32 blocks of 1024 threads at a time.
    @in_clusters(3)
    @cuda.jit
    def count(out):
        ones = cuda.shared.array(3, float32)
        ptx.cluster_sync()
        if cuda.threadIdx.x < 3:
            ptx.cluster_store(ones, ptx.cluster_rank(), float32(1), cuda.threadIdx.x)
        ptx.cluster_sync()
        out[cuda.blockIdx.x] = ones[0] + ones[1] + ones[2]

    out = np.zeros(99, np.float32)
    simulate(count, 99, 1024, (out,))
    np.testing.assert_array_equal(out, 3)


# -- What must not pass ----------------------------------------------------------------------------


@in_clusters(BLOCKS)
@cuda.jit
def write_before_the_others_have_begun(x, out):
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    ptx.cluster_store(numbers, cuda.threadIdx.x, x[0, 0], 0)
    ptx.cluster_sync()


@in_clusters(BLOCKS)
@cuda.jit
def read_before_the_others_have_written(x, out):
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    t = cuda.threadIdx.x
    ptx.cluster_sync()
    for block in range(BLOCKS):
        ptx.cluster_store(numbers, ptx.cluster_rank() * THREADS + t, x[0, t], block)
    cuda.syncthreads()
    out[cuda.blockIdx.x, 0, t] = numbers[BLOCKS - 1, t] + numbers[0, t]


@in_clusters(BLOCKS)
@cuda.jit
def write_to_who_has_ended(x, out):
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    ptx.cluster_sync()
    if ptx.cluster_rank() == 0:
        return
    for _ in range(4):
        cuda.syncthreads()
    ptx.cluster_store(numbers, cuda.threadIdx.x, x[0, 0], 0)


@in_clusters(BLOCKS)
@cuda.jit
def write_to_a_fifth(x, out):
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    ptx.cluster_sync()
    ptx.cluster_store(numbers, cuda.threadIdx.x, x[0, 0], 4)
    ptx.cluster_sync()


@in_clusters(BLOCKS)
@cuda.jit
def read_what_nobody_sent(x, out):
    numbers = cuda.shared.array((BLOCKS, THREADS), float32)
    ptx.cluster_sync()
    if ptx.cluster_rank() == 1:
        ptx.cluster_store(numbers, cuda.threadIdx.x, x[0, 0], 0)
    ptx.cluster_sync()
    out[cuda.blockIdx.x, 0, cuda.threadIdx.x] = numbers[0, cuda.threadIdx.x]


@in_clusters(BLOCKS)
@cuda.jit
def fetch_before_the_others_have_written(x, out):
    numbers = cuda.shared.array(THREADS, float32)
    ptx.cluster_sync()
    numbers[cuda.threadIdx.x] = x[0, cuda.threadIdx.x]
    cuda.syncwarp()
    out[0, 0, 0] = ptx.cluster_load16(numbers, 0, 1)[0]
    ptx.cluster_sync()


@in_clusters(BLOCKS)
@cuda.jit
def fetch_from_who_has_ended(x, out):
    numbers = cuda.shared.array(THREADS, float32)
    numbers[cuda.threadIdx.x] = x[0, cuda.threadIdx.x]
    ptx.cluster_sync()
    if ptx.cluster_rank() == 0:
        return
    for _ in range(4):
        cuda.syncthreads()
    out[0, 0, 0] = ptx.cluster_load16(numbers, 0, 0)[0]


@pytest.mark.parametrize(
    ("kernel", "fault", "words"),
    [
        (fetch_before_the_others_have_written, RaceError, "`numbers`"),
        (fetch_from_who_has_ended, RaceError, "has ended"),
        (write_before_the_others_have_begun, RaceError, "may not have begun"),
        (read_before_the_others_have_written, RaceError, "`numbers`"),
        (write_to_who_has_ended, RaceError, "has ended"),
        (write_to_a_fifth, OutOfBoundsError, "block 4 of a cluster of 4"),
        (read_what_nobody_sent, UninitializedReadError, "where nobody has written"),
    ],
)
def test_a_wrong_use_of_another_block_s_memory_is_told(kernel, fault, words):
    with pytest.raises(fault, match=words):
        simulate(kernel, BLOCKS, THREADS, operands(BLOCKS))


@in_clusters(BLOCKS)
@cuda.jit
def leave_one_block_out(x, out):
    if ptx.cluster_rank() != 2:
        ptx.cluster_sync()


@in_clusters(BLOCKS)
@cuda.jit
def leave_one_thread_out(x, out):
    if cuda.grid(1) != 5:
        ptx.cluster_sync()


@pytest.mark.parametrize("kernel", [leave_one_block_out, leave_one_thread_out])
def test_a_barrier_that_some_never_reach_is_told(kernel):
    with pytest.raises((DeadlockError, BarrierDivergenceError), match="barrier"):
        simulate(kernel, BLOCKS, THREADS, operands(BLOCKS))


@in_clusters(2)
@cuda.jit
def meet_while_the_others_meet_in_the_block(x, out):
    """The first block of each cluster waits for the second, which has barriers of its own."""
    if ptx.cluster_rank() == 1:
        for _ in range(3):
            cuda.syncthreads()
    ptx.cluster_sync()
    out[cuda.blockIdx.x, 0, cuda.threadIdx.x] = x[cuda.blockIdx.x, cuda.threadIdx.x]


@pytest.mark.parametrize("seed", range(5))
def test_who_waits_for_the_cluster_is_not_let_go_by_a_barrier_of_a_block(seed):
    x, out = operands(4)
    args = (meet_while_the_others_meet_in_the_block, 4, THREADS, (x, out))
    simulate(*args, schedule="random", seed=seed)
    np.testing.assert_array_equal(out[:, 0], x)


def test_clusters_must_be_whole_and_not_too_large():
    with pytest.raises(UnsupportedError, match=r"clusters of 4 blocks.*multiple of 4"):
        simulate(gather, 6, THREADS, operands(6))
    for blocks in (0, MOST_BLOCKS + 1):
        with pytest.raises(ValueError, match="1 to 8 blocks"):
            in_clusters(blocks)
    assert cluster_of(gather) == BLOCKS
    assert cluster_of(cuda.jit(lambda x: None)) == 1


def test_operands_of_wrong_types_are_refused():
    floats, place = types.float32[::1], types.int64
    with pytest.raises(TypingError, match="C-contiguous array of float32"):
        ptx.cluster_store._defn(None, types.int32[::1], place, types.float32, types.int32)
    with pytest.raises(TypingError, match="C-contiguous array of float32"):
        ptx.cluster_load16._defn(None, types.int32[::1], place, types.int32)
    with pytest.raises(TypingError, match="takes a float32, not float64"):
        ptx.cluster_store._defn(None, floats, place, types.float64, types.int32)


# -- What is compiled --------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_only_gpus_since_90_have_the_instructions(capability):
    if problem := compiler_problem():
        pytest.skip(problem)
    kinds = (types.float32[:, ::1], types.float32[:, :, ::1])
    text = compile_to_ptx(gather, kinds, capability)
    newer = capability >= (9, 0)
    assert text.count("barrier.cluster.arrive.release") == 2 * newer
    assert text.count("barrier.cluster.wait.acquire") == 2 * newer
    loaded = compile_to_ptx(fetch, kinds, capability)
    assert ("ld.shared::cluster.v4.f32" in loaded) == newer
    assemble(loaded, capability)
    assert ("st.shared::cluster.f32" in text) == ("%cluster_ctarank" in text) == newer
    assemble(text, capability)
