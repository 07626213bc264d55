"""Blocks that hand work to each other by flags: what a release publishes, an acquire sees."""

import numpy as np
import pytest
from numba import cuda, int32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DeadlockError, RaceError

THREADS = 32


@cuda.jit
def hand_over(flags, x, out):
    """Each block takes a row from the block before it, adds 1, and passes it on."""
    block, t = cuda.blockIdx.x, cuda.threadIdx.x
    if block > 0 and t == 0:
        while ptx.load_acquire(flags, block - 1) == 0:
            pass
    cuda.syncthreads()
    out[block, t] = x[t] if block == 0 else out[block - 1, t] + 1
    cuda.syncthreads()
    if t == 0:
        ptx.store_release(flags, block, int32(1))


def arrays(blocks=4):
    return np.zeros(blocks, np.int32), np.arange(THREADS), np.zeros((blocks, THREADS), np.int64)


def test_rows_are_handed_from_block_to_block(device):
    on_device = [runtime.to_device(each, device) for each in arrays()]
    runtime.launch(hand_over, 4, THREADS, tuple(on_device))
    expected = np.arange(4)[:, None] + np.arange(THREADS)
    np.testing.assert_array_equal(runtime.to_host(on_device[2]), expected)
    assert runtime.to_host(on_device[0]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_handed_over_whatever_block_runs_first(seed):
    flags, x, out = arrays()
    simulate(hand_over, 4, THREADS, (flags, x, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out, np.arange(4)[:, None] + x)


@cuda.jit
def gather(flags, x, out):
    """Each block writes a row; the last one waits for all, and adds them up."""
    block, t = cuda.blockIdx.x, cuda.threadIdx.x
    out[block, t] = x[t] + block
    cuda.syncthreads()
    if t == 0:
        ptx.add_release(flags, 2, int32(1))
    if block == 3:
        if t == 0:
            while ptx.load_acquire(flags, 2) < 4:
                pass
        cuda.syncthreads()
        for other in range(3):
            out[3, t] += out[other, t]


def test_who_counts_all_blocks_sees_what_all_have_written(device):
    on_device = [runtime.to_device(each, device) for each in arrays()]
    runtime.launch(gather, 4, THREADS, tuple(on_device))
    np.testing.assert_array_equal(runtime.to_host(on_device[2])[3], 4 * np.arange(THREADS) + 6)
    assert runtime.to_host(on_device[0]).tolist() == [0, 0, 4, 0]


@pytest.mark.parametrize("seed", range(5))
def test_a_counter_counts_whatever_block_runs_first(seed):
    flags, x, out = arrays()
    simulate(gather, 4, THREADS, (flags, x, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out[3], 4 * x + 6)


@cuda.jit
def release_too_early(flags, x, out):
    if cuda.threadIdx.x == 0:
        if cuda.blockIdx.x == 0:
            ptx.store_release(flags, 0, int32(1))
            x[0] = 7
        else:
            while ptx.load_acquire(flags, 0) == 0:
                pass
            out[1, 0] = x[0]


@cuda.jit
def release_without_a_barrier(flags, x, out):
    t = cuda.threadIdx.x
    if cuda.blockIdx.x == 0:
        x[t] = 7
        if t == 0:
            ptx.store_release(flags, 0, int32(1))
    elif t == 0:
        while ptx.load_acquire(flags, 0) == 0:
            pass
        out[1, 0] = x[THREADS - 1]


@cuda.jit
def store_the_flag_plainly(flags, x, out):
    if cuda.threadIdx.x == 0:
        if cuda.blockIdx.x == 0:
            x[0] = 7
            flags[0] = 1
        else:
            while ptx.load_acquire(flags, 0) == 0:
                pass
            out[1, 0] = x[0]


@pytest.mark.parametrize(
    "kernel", [release_too_early, release_without_a_barrier, store_the_flag_plainly]
)
def test_what_no_release_has_published_is_a_race(kernel):
    with pytest.raises(RaceError):
        simulate(kernel, 2, THREADS, arrays())


@cuda.jit
def acquire_after_an_atomic(flags, x, out):
    """A fence and an atomic operation publish, too."""
    if cuda.threadIdx.x == 0:
        if cuda.blockIdx.x == 0:
            x[0] = 7
            cuda.threadfence()
            cuda.atomic.add(flags, 0, 1)
        else:
            while ptx.load_acquire(flags, 0) == 0:
                pass
            out[1, 0] = x[0]


@cuda.jit
def atomic_after_a_release(flags, x, out):
    """And an atomic operation with a fence behind it sees what a release published."""
    if cuda.threadIdx.x == 0:
        if cuda.blockIdx.x == 0:
            x[0] = 7
            ptx.store_release(flags, 0, int32(1))
        else:
            while cuda.atomic.add(flags, 0, 0) == 0:
                pass
            cuda.threadfence()
            out[1, 0] = x[0]


@pytest.mark.parametrize("kernel", [acquire_after_an_atomic, atomic_after_a_release])
def test_flags_and_atomic_operations_go_together(kernel):
    flags, x, out = arrays()
    simulate(kernel, 2, THREADS, (flags, x, out))
    assert out[1, 0] == 7


@cuda.jit
def last_block_adds(counter, x, out):
    """Each block leaves a row, and the one that comes last adds all of them."""
    mine, t = cuda.shared.array(1, int32), cuda.threadIdx.x
    out[1 + cuda.blockIdx.x, t] = x[t] * (1 + cuda.blockIdx.x)
    cuda.syncthreads()
    if t == 0:
        mine[0] = ptx.add_acq_rel(counter, 0, int32(1))
    cuda.syncthreads()
    if mine[0] == cuda.gridDim.x - 1:
        for block in range(cuda.gridDim.x):
            out[0, t] += out[1 + block, t]


def test_the_last_block_to_count_itself_sees_what_all_others_wrote(device):
    counter, x, out = arrays(5)
    on_device = [runtime.to_device(each, device) for each in (counter, x, out)]
    runtime.launch(last_block_adds, 4, THREADS, tuple(on_device))
    np.testing.assert_array_equal(runtime.to_host(on_device[2])[0], 10 * x)
    assert runtime.to_host(on_device[0]).tolist() == [4, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_whichever_block_is_the_last(seed):
    counter, x, out = arrays(5)
    simulate(last_block_adds, 4, THREADS, (counter, x, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out[0], 10 * x)


@cuda.jit
def wait_for_nobody(flags, x, out):
    while ptx.load_acquire(flags, 1) == 0:
        pass
    ptx.store_release(flags, 1, int32(1))


def test_a_wait_for_a_flag_that_nobody_sets_is_a_deadlock():
    with pytest.raises(DeadlockError):
        simulate(wait_for_nobody, 1, THREADS, arrays())


def test_operands_of_wrong_types_are_refused_with_what_would_be_right():
    wide = types.int64[::1]
    with pytest.raises(TypingError, match="load_acquire takes a C-contiguous array of int32"):
        ptx.load_acquire._defn(None, wide, types.int64)
    with pytest.raises(TypingError, match="store_release takes a C-contiguous array of int32"):
        ptx.store_release._defn(None, wide, types.int64, types.int32)
    with pytest.raises(TypingError, match="add_release takes a C-contiguous array of int32"):
        ptx.add_release._defn(None, wide, types.int64, types.int32)
    with pytest.raises(TypingError, match="add_acq_rel takes a C-contiguous array of int32"):
        ptx.add_acq_rel._defn(None, wide, types.int64, types.int32)


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (10, 0)])
def test_flags_are_loaded_and_stored_with_their_order(capability):
    kinds = (types.int32[::1], types.int64[::1], types.int64[:, ::1])
    text = compile_to_ptx(hand_over, kinds, capability)
    assert "ld.acquire.gpu.global.u32" in text
    assert text.count("st.release.gpu.global.u32") == 1
    assemble(text, capability)
