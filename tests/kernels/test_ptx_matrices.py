"""Fragments out of shared memory and back, in the simulator and on a GPU; what banks cost."""

import numpy as np
import pytest
from numba import cuda, uint16, uint32
from numba.cuda import types
from numba.cuda.core.errors import TypingError

from llm_numba import runtime
from llm_numba.errors import CompileError
from llm_numba.kernels import ptx
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import BarrierDivergenceError, OutOfBoundsError, RaceError

ROWS = 32
TWO_TILES = 2 * ROWS


def loading(pitch, swizzled=False):
    """Make a kernel that loads four matrices out of 32 rows of a number of halves each."""

    @cuda.jit
    def load(x, out):
        tile = cuda.shared.array((ROWS, pitch), uint16)
        lane = cuda.threadIdx.x % 32
        for i in range(cuda.threadIdx.x, ROWS * 64, cuda.blockDim.x):
            row, packet, place = i // 64, i // 8 % 8, i % 8
            packet ^= row % 8 if swizzled else 0
            tile[row, packet * 8 + place] = x[row, i % 64]
        cuda.syncthreads()
        # Matrix i: rows 8 i to 8 i + 7, and of them the second packet of eight.
        packet = 1 ^ lane % 8 if swizzled else 1
        words = ptx.ldmatrix_x4(tile, lane * pitch + packet * 8)
        for i in range(4):
            out[cuda.threadIdx.x // 32, lane, i] = words[i]

    return load


def numbers():
    return np.arange(ROWS * 64, dtype=np.uint16).reshape(ROWS, 64)


def fragments(x):
    """Unpack by the formulas of the PTX ISA, number by number: [lane, matrix]."""
    words = np.empty((32, 4), np.uint32)
    for lane in range(32):
        for matrix in range(4):
            row, pair = 8 * matrix + lane // 4, 8 + lane % 4 * 2
            words[lane, matrix] = int(x[row, pair]) | int(x[row, pair + 1]) << 16
    return words


@pytest.mark.parametrize(("pitch", "swizzled"), [(64, False), (72, False), (64, True)])
def test_lanes_get_neighbours_of_rows_that_others_named(pitch, swizzled, device):
    out = np.zeros((2, 32, 4), np.uint32)
    on_device = [runtime.to_device(each, device) for each in (numbers(), out)]
    runtime.launch(loading(pitch, swizzled), 1, 64, tuple(on_device))
    for warp in runtime.to_host(on_device[1]):
        np.testing.assert_array_equal(warp, fragments(numbers()))


@pytest.mark.parametrize(
    ("pitch", "swizzled", "ways"), [(64, False, 8), (72, False, 1), (64, True, 1)]
)
def test_rows_of_128_bytes_wait_for_each_other_unless_padded_or_swizzled(pitch, swizzled, ways):
    report = simulate(loading(pitch, swizzled), 1, 32, (numbers(), np.zeros((1, 32, 4), "u4")))
    (load,) = [line for line in report.lines if line.worst_shared and line.worst_shared.size == 16]
    assert load.shared_requests == 1
    assert load.max_bank_ways == ways
    assert load.shared_wavefronts == 4 * ways
    assert load.ideal_wavefronts == 4


@cuda.jit
def transpose(x, out):
    """Load [32, 8] as four matrices, each transposed."""
    tile = cuda.shared.array((ROWS, 8), uint16)
    lane = cuda.threadIdx.x
    for k in range(8):
        tile[lane, k] = x[lane, k]
    cuda.syncthreads()
    words = ptx.ldmatrix_x4_trans(tile, lane * 8)
    for i in range(4):
        out[lane, i] = words[i]


def test_lanes_get_neighbours_of_columns(device):
    x = np.arange(ROWS * 8, dtype=np.uint16).reshape(4, 8, 8)
    on_device = [
        runtime.to_device(each, device) for each in (x.reshape(32, 8), np.zeros((32, 4), "u4"))
    ]
    runtime.launch(transpose, 1, 32, tuple(on_device))
    words = runtime.to_host(on_device[1])
    for lane in range(32):
        for matrix in range(4):
            upper, lower = x[matrix, lane % 4 * 2 : lane % 4 * 2 + 2, lane // 4]
            assert words[lane, matrix] == int(upper) | int(lower) << 16


def storing(pitch, syncs=True):
    """Make a kernel that stores two warps' fragments, four matrices below each other."""

    @cuda.jit
    def store(words, out):
        tile = cuda.shared.array((TWO_TILES, pitch), uint16)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        mine = (
            words[warp, lane, 0],
            words[warp, lane, 1],
            words[warp, lane, 2],
            words[warp, lane, 3],
        )
        ptx.stmatrix_x4(tile, (warp * ROWS + lane) * pitch, mine)
        if syncs:
            cuda.syncwarp()
        for k in range(8):
            out[warp, lane, k] = tile[warp * ROWS + lane, k]

    return store


def _stored(kernel, device):
    x = np.random.default_rng(0).integers(0, 2**16, (2, ROWS, 8)).astype(np.uint16)
    padded = [np.pad(each, ((0, 0), (8, 48))) for each in x]
    words = np.stack([fragments(each) for each in padded])
    on_device = [runtime.to_device(each, device) for each in (words, np.zeros_like(x))]
    if not runtime.has_capability(on_device[0], (9, 0)):
        pytest.skip("this GPU loads matrices, but does not store them")
    runtime.launch(kernel, 1, 64, tuple(on_device))
    return runtime.to_host(on_device[1]), x


@pytest.mark.parametrize("pitch", [8, 72])
def test_fragments_go_to_the_rows_that_lanes_named(pitch, device):
    np.testing.assert_array_equal(*_stored(storing(pitch), device))


def test_rows_that_share_banks_are_stored_one_after_the_other():
    for pitch, ways in ((64, 8), (72, 1)):
        args = np.zeros((1, 32, 4), np.uint32), np.zeros((1, 32, 8), np.uint16)
        report = simulate(storing(pitch), 1, 32, args)
        (line,) = [
            each for each in report.lines if each.worst_shared and each.worst_shared.size == 16
        ]
        assert (line.max_bank_ways, line.shared_wavefronts) == (ways, 4 * ways)


# -- What must not pass ----------------------------------------------------------------------------


@cuda.jit
def load_by_half_a_warp(out):
    tile = cuda.shared.array((8, 8), uint16)
    if cuda.threadIdx.x < 16:
        out[0] = ptx.ldmatrix_x4(tile, 0)[0]


def test_half_a_warp_waits_in_vain():
    with pytest.raises(BarrierDivergenceError, match="lanes 16 to 31"):
        simulate(load_by_half_a_warp, 1, 32, (np.zeros(1, np.uint32),))


def test_a_row_begins_at_a_multiple_of_16_bytes():
    with pytest.raises(OutOfBoundsError, match="multiple of 16"):
        simulate(loading(68), 1, 32, (numbers(), np.zeros((1, 32, 4), np.uint32)))


@cuda.jit
def name_what_others_wrote(out):
    """Each lane writes the row that it names itself: and yet it gets those of others."""
    tile = cuda.shared.array((32, 8), uint16)
    lane = cuda.threadIdx.x
    for k in range(8):
        tile[lane, k] = uint16(lane)
    words = ptx.ldmatrix_x4(tile, lane * 8)
    out[lane] = words[0] + uint32(0)


def test_a_lane_reads_what_it_gets_and_not_what_it_names():
    with pytest.raises(RaceError, match="`tile`"):
        simulate(name_what_others_wrote, 1, 32, (np.zeros(32, np.uint32),))


def test_a_row_is_written_by_others_than_the_lane_that_named_it():
    args = np.zeros((1, 32, 4), np.uint32), np.zeros((1, 32, 8), np.uint16)
    with pytest.raises(RaceError, match="`tile`"):
        simulate(storing(8, syncs=False), 1, 32, args)


def test_operands_of_wrong_types_are_refused():
    for load in (ptx.ldmatrix_x4, ptx.ldmatrix_x4_trans):
        with pytest.raises(TypingError, match="takes a C-contiguous array"):
            load._defn(None, types.float32[::1], types.int64)
    with pytest.raises(TypingError, match="stores UniTuple"):
        ptx.stmatrix_x4._defn(None, types.uint16[::1], types.int64, types.uint32)


# -- What is compiled ------------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_it_is_one_instruction(capability):
    text = compile_to_ptx(loading(72), (types.uint16[:, ::1], types.uint32[:, :, ::1]), capability)
    assert text.count("ldmatrix.sync.aligned.m8n8.x4.shared.b16") == 1
    assemble(text, capability)


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_the_others_are_one_instruction_each():
    of_halves, of_words = types.uint16[:, :, ::1], types.uint32[:, :, ::1]
    text = compile_to_ptx(transpose, (types.uint16[:, ::1], types.uint32[:, ::1]), (7, 5))
    assert text.count("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16") == 1
    assemble(text, (7, 5))
    text = compile_to_ptx(storing(72), (of_words, of_halves), (9, 0))
    assert text.count("stmatrix.sync.aligned.m8n8.x4.shared.b16") == 1
    assemble(text, (9, 0))
    with pytest.raises(CompileError):
        assemble(compile_to_ptx(storing(72), (of_words, of_halves), (8, 0)), (8, 0))
