"""Copies into shared memory that go on by themselves: right after the wait, and wrong before."""

import numpy as np
import pytest
from numba import cuda, float32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import RaceError, UninitializedReadError, UnsupportedError

THREADS = 32
TILE = 4 * THREADS
ROUNDS = 4


@cuda.jit
def reverse_tiles(x, out):
    """Two tiles in turn: while one is read the other is on its way."""
    tile = cuda.shared.array((2, TILE), float32)
    t = cuda.threadIdx.x
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_commit()
    for k in range(ROUNDS):
        if k + 1 < ROUNDS:
            ptx.cp_async16(tile, (k + 1) % 2 * TILE + t * 4, x, (k + 1) * TILE + t * 4)
        ptx.cp_async_commit()
        ptx.cp_async_wait(1)
        cuda.syncthreads()
        for e in range(4):
            out[k * TILE + e * THREADS + t] = tile[k % 2, TILE - 1 - (e * THREADS + t)]
        cuda.syncthreads()


@cuda.jit
def fetch_or_zero(x, count, out):
    tile = cuda.shared.array(TILE, float32)
    i = cuda.threadIdx.x * 4
    ptx.cp_async16_or_zeros(tile, i, x, i, i < count)
    ptx.cp_async_commit()
    ptx.cp_async_wait(0)
    for e in range(4):
        out[i + e] = tile[i + e]


def numbers(count):
    return np.random.default_rng(0).normal(size=count).astype(np.float32)


def test_tiles_arrive_in_turn(device):
    x = numbers(ROUNDS * TILE)
    on_device = [runtime.to_device(each, device) for each in (x, np.zeros_like(x))]
    runtime.launch(reverse_tiles, 1, THREADS, tuple(on_device))
    expected = x.reshape(ROUNDS, TILE)[:, ::-1].ravel()
    np.testing.assert_array_equal(runtime.to_host(on_device[1]), expected)


@pytest.mark.parametrize("seed", range(5))
def test_tiles_arrive_in_turn_whatever_thread_runs_first(seed):
    x, out = numbers(ROUNDS * TILE), np.zeros(ROUNDS * TILE, np.float32)
    simulate(reverse_tiles, 1, THREADS, (x, out), schedule="random", seed=seed)
    np.testing.assert_array_equal(out, x.reshape(ROUNDS, TILE)[:, ::-1].ravel())


@pytest.mark.parametrize("count", [0, 4, 64, TILE])
def test_what_is_not_there_becomes_zeros_and_is_not_read(count, device):
    x = numbers(count)
    on_device = [runtime.to_device(each, device) for each in (x, np.ones(TILE, np.float32))]
    runtime.launch(fetch_or_zero, 1, THREADS, (on_device[0], count, on_device[1]))
    expected = np.concatenate([x, np.zeros(TILE - count, np.float32)])
    np.testing.assert_array_equal(runtime.to_host(on_device[1]), expected)


def test_a_copy_costs_one_request_of_either_memory():
    x = numbers(ROUNDS * TILE)
    report = simulate(reverse_tiles, 1, THREADS, (x, np.zeros_like(x)))
    copies = [line for line in report.lines if line.global_requests and line.shared_requests]
    issued = [line for line in copies if line.shared_requests in (1, ROUNDS - 1)]
    assert sum(line.shared_wavefronts for line in issued) == 4 * ROUNDS
    assert sum(line.global_sectors for line in issued) == 16 * ROUNDS


# -- What must not pass ----------------------------------------------------------------------------


@cuda.jit
def read_before_the_wait(x, out):
    tile = cuda.shared.array(TILE, float32)
    t = cuda.threadIdx.x
    for e in range(4):
        tile[t * 4 + e] = float32(0)
    cuda.syncthreads()
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_commit()
    cuda.syncthreads()
    out[t] = tile[t * 4]


@cuda.jit
def wait_for_too_few(x, out):
    tile = cuda.shared.array(TILE, float32)
    t = cuda.threadIdx.x
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_commit()
    ptx.cp_async_wait(1)
    out[t] = tile[t * 4]


@cuda.jit
def forget_the_commit(x, out):
    tile = cuda.shared.array(TILE, float32)
    t = cuda.threadIdx.x
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_wait(0)
    out[t] = tile[t * 4]


@pytest.mark.parametrize("kernel", [read_before_the_wait, wait_for_too_few, forget_the_commit])
def test_a_read_before_the_copy_has_arrived_is_reported_and_gives_garbage(kernel):
    x, out = numbers(TILE), np.zeros(THREADS, np.float32)
    with pytest.raises(UninitializedReadError, match=r"before a copy has arrived.*cp_async_wait"):
        simulate(kernel, 1, THREADS, (x, out))
    out = runtime.to_device(out, "sim")
    runtime.launch(kernel, 1, THREADS, (runtime.to_device(x, "sim"), out))
    assert np.isnan(out).all()


@cuda.jit
def wait_without_a_barrier(x, out):
    tile = cuda.shared.array(TILE, float32)
    t = cuda.threadIdx.x
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_commit()
    ptx.cp_async_wait(0)
    out[t] = tile[(t * 4 + 4) % TILE]


@cuda.jit
def copy_over_what_others_read(x, out):
    tile = cuda.shared.array(TILE, float32)
    t = cuda.threadIdx.x
    for e in range(4):
        tile[t * 4 + e] = float32(e)
    cuda.syncthreads()
    out[t] = tile[(t * 4 + 4) % TILE]
    ptx.cp_async16(tile, t * 4, x, t * 4)
    ptx.cp_async_commit()
    ptx.cp_async_wait(0)


@pytest.mark.parametrize("kernel", [wait_without_a_barrier, copy_over_what_others_read])
def test_a_copy_takes_part_in_races(kernel):
    with pytest.raises(RaceError, match="`tile`"):
        simulate(kernel, 1, THREADS, (numbers(TILE), np.zeros(THREADS, np.float32)))


@cuda.jit
def wait_for_a_variable(x, out):
    ptx.cp_async_wait(x.size)


def test_operands_of_wrong_types_are_refused_with_what_would_be_right():
    x = numbers(4)
    with pytest.raises(UnsupportedError, match="cp_async_wait takes a constant"):
        simulate(wait_for_a_variable, 1, 1, (x, x))
    floats, halves = types.float32[::1], types.float16[::1]
    place = types.int64
    with pytest.raises(TypingError, match="between two arrays of one of"):
        ptx.cp_async16._defn(None, floats, place, halves, place)
    with pytest.raises(TypingError, match="copies between C-contiguous arrays"):
        ptx.cp_async16._defn(None, floats, place, types.Array(types.float32, 1, "A"), place)
    with pytest.raises(TypingError, match="takes a bool to tell"):
        ptx.cp_async16_or_zeros._defn(None, floats, place, floats, place, place)


# -- What is compiled --------------------------------------------------------------------------


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_copies_are_one_instruction_each(capability):
    text = compile_to_ptx(reverse_tiles, (types.float32[::1], types.float32[::1]), capability)
    assert "cp.async.cg.shared.global" in text
    assert "cp.async.wait_group 1;" in text
    assert "ld.global" not in text
    assemble(text, capability)
    kinds = (types.float32[::1], types.int64, types.float32[::1])
    text = compile_to_ptx(fetch_or_zero, kinds, capability)
    assert text.count("cp.async.cg.shared.global") == 1
    assert "ld.global" not in text
    assemble(text, capability)


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
def test_older_gpus_load_and_store():
    kinds = (types.float32[::1], types.int64, types.float32[::1])
    text = compile_to_ptx(fetch_or_zero, kinds, (7, 5))
    assert "cp.async" not in text
    assert "ld.global.v4" in text
    assemble(text, (7, 5))
