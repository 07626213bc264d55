"""Tiles that the copy engine brings back, and barriers of some warps of a block."""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, uint16
from numba.cuda import types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime import tensor_map
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.signature import TENSOR_MAP
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    DescriptorError,
    ProxyError,
    RaceError,
)

THREADS, ROWS, COLUMNS = 64, 16, 64
SHARED = ROWS * COLUMNS * 2 + 1024


def counting(mistake="nothing", row=3):
    """Make a kernel that writes tiles of counted numbers, each over the one before."""
    FENCES, WAITS, MEETS = mistake != "no fence", mistake != "no wait", mistake != "no barrier"
    FIRST_ROW = row

    @cuda.jit
    def kernel(out_map, turns):
        out_map = ptx.parameter(out_map)
        tiles = cuda.shared.array(0, uint16)
        t = cuda.threadIdx.x
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
        for turn in range(turns):
            for row in range(ROWS):
                place = row * COLUMNS + (t // 8 ^ row % 8) * 8 + t % 8
                tiles[first + place] = uint16(1000 * turn + 64 * row + t)
            if FENCES:
                ptx.fence_async()
            if MEETS:
                cuda.syncthreads()
            if t == 0:
                ptx.tma_store_2d(tiles, first, out_map, 8, turn * ROWS + FIRST_ROW)
                ptx.bulk_commit()
                if WAITS:
                    ptx.bulk_wait(0)
            cuda.syncthreads()
        if t == 0:
            ptx.bulk_wait(0)

    return kernel


def run(kernel, turns=2, **options):
    """Let tiles stand out over the last row and the last column of a matrix."""
    out = runtime.to_device(np.full((24, 40), 7, np.uint16).view("bfloat16"), "sim")
    args = (np.asarray(tensor_map(out, ROWS)), turns)
    simulate(kernel, 1, THREADS, args, SHARED, **options)
    return np.asarray(out).view(np.uint16)


def expected(turns=2):
    out = np.full((24, 40), 7, np.uint16)
    for turn in range(turns):
        for row in range(ROWS):
            if turn * ROWS + 3 + row < 24:
                out[turn * ROWS + 3 + row, 8:] = 1000 * turn + 64 * row + np.arange(32)
    return out


@pytest.mark.parametrize("options", [{}, {"schedule": "random", "seed": 3}])
def test_tiles_are_written_where_the_matrix_is(options):
    np.testing.assert_array_equal(run(counting(), **options), expected())


@pytest.mark.gpu
def test_tiles_are_written_where_the_matrix_is_on_a_gpu():
    out = runtime.to_device(np.full((24, 40), 7, np.uint16).view("bfloat16"), "cuda")
    if not runtime.has_capability(out, (9, 0)):
        pytest.skip("this GPU has no copy engine for tiles")
    runtime.launch(counting(), 1, THREADS, (tensor_map(out, ROWS), 2), SHARED)
    np.testing.assert_array_equal(runtime.to_host(out).view(np.uint16), expected())


@pytest.mark.parametrize(
    ("mistake", "error"), [("no fence", ProxyError), ("no barrier", RaceError)]
)
def test_a_tile_that_the_engine_may_not_see_is_found(mistake, error):
    with pytest.raises(error, match="`tiles`"):
        run(counting(mistake))


def test_a_tile_that_is_overwritten_before_it_was_read_gives_wrong_numbers():
    assert not (run(counting("no wait")) == expected()).all()


@pytest.mark.parametrize("row", [-3, -16])
def test_a_tile_that_begins_before_the_matrix_is_refused(row):
    with pytest.raises(DescriptorError, match=f"begins at row {row} and column 8"):
        run(counting(row=row), turns=1)


def without_end():
    @cuda.jit
    def kernel(out_map, turns):
        out_map = ptx.parameter(out_map)
        tiles = cuda.shared.array(0, uint16)
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
        for place in range(cuda.threadIdx.x, ROWS * COLUMNS, THREADS):
            tiles[first + place] = uint16(turns)
        ptx.fence_async()
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            ptx.tma_store_2d(tiles, first, out_map, 0, 0)
            ptx.bulk_commit()

    return kernel


def test_what_nobody_waits_for_is_not_there():
    assert (run(without_end()) == 7).all()


# -- Barriers of some warps ---------------------------------------------------------------------


@cuda.jit
def halves_of_a_block(out):
    """Two pairs of warps, each with a barrier of its own, hand numbers to each other."""
    numbers = cuda.shared.array(128, uint16)
    t = cuda.threadIdx.x
    pair = t // 64
    for turn in range(2 + pair):
        numbers[t] = uint16(t + turn)
        ptx.barrier_sync(1 + pair, 64)
        out[t] = numbers[t ^ 32]
        ptx.barrier_sync(1 + pair, 64)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_some_warps_meet_and_the_others_need_not(seed):
    out = np.zeros(128, np.uint16)
    options = {} if seed is None else {"schedule": "random", "seed": seed}
    simulate(halves_of_a_block, 1, 128, (out,), **options)
    np.testing.assert_array_equal(out, (np.arange(128) ^ 32) + 1 + np.arange(128) // 64)


@pytest.mark.gpu
def test_some_warps_meet_on_a_gpu():
    out = runtime.to_device(np.zeros(128, np.uint16), "cuda")
    runtime.launch(halves_of_a_block, 1, 128, (out,))
    expected = (np.arange(128) ^ 32) + 1 + np.arange(128) // 64
    np.testing.assert_array_equal(runtime.to_host(out), expected)


def meeting(number, threads):
    @cuda.jit
    def kernel(out):
        if cuda.threadIdx.x < 64:
            ptx.barrier_sync(number, threads)
        out[cuda.threadIdx.x] = uint16(1)

    return kernel


@pytest.mark.parametrize(
    ("number", "threads", "error", "said"),
    [
        (1, 96, DeadlockError, "waits? at a barrier that the other threads never reach"),
        (1, 32, BarrierDivergenceError, r"\[32\] threads were named and 64 have come"),
        (16, 64, BarrierDivergenceError, "number from 1 to 15"),
        (1, 50, BarrierDivergenceError, "whole warps"),
    ],
)
def test_a_meeting_that_cannot_be_is_told(number, threads, error, said):
    with pytest.raises(error, match=said):
        simulate(meeting(number, threads), 1, 128, (np.zeros(128, np.uint16),))


def test_half_a_warp_may_not_meet_others():
    """The numbers fit, but a GPU counts warps, and its instruction is for all lanes of them."""

    @cuda.jit
    def halves_of_warps(out):
        if cuda.threadIdx.x % 32 < 16:
            ptx.barrier_sync(1, 64)
        out[cuda.threadIdx.x] = uint16(1)

    with pytest.raises(BarrierDivergenceError, match="some lanes of its own do not come"):
        simulate(halves_of_warps, 1, 128, (np.zeros(128, np.uint16),))


# -- What is compiled --------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_each_is_one_instruction():
    text = compile_to_ptx(counting(), (TENSOR_MAP, types.int64), (9, 0))
    for instruction in (
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group",
        "cp.async.bulk.commit_group",
        "cp.async.bulk.wait_group.read 0",
    ):
        assert instruction in text
    assemble(text, (9, 0))
    # The engine reads the map where the launch put it: no thread copies it.
    assert ".param .align 64 .b8" in text
    assert ".local" not in text
    text = compile_to_ptx(halves_of_a_block, (types.uint16[::1],), (7, 5))
    assert "barrier.sync.aligned" in text
    assemble(text, (7, 5))
