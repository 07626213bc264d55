"""Sectors, wavefronts and bank ways against counts made by hand."""

import numpy as np
import pytest
from numba import cuda, float32

from llm_numba.simulator import simulate
from llm_numba.simulator.costs import atomic_sectors, ideal_sectors, sectors, wavefronts

LANES = np.arange(32)
NOBODY = -1


def request(addresses):
    return np.asarray(addresses, np.int64).reshape(1, 32)


# -- Global memory --------------------------------------------------------------------------------

PATTERNS = {
    # name: (byte address of each lane, bytes a lane, sectors, ideal sectors)
    "floats side by side": (LANES * 4, 4, 4, 4),
    "floats side by side, one element further": (LANES * 4 + 4, 4, 5, 4),
    "every second float": (LANES * 8, 4, 8, 4),
    "a float of each row of 256 bytes": (LANES * 256, 4, 32, 4),
    "all the same float": (LANES * 0 + 64, 4, 1, 1),
    "two lanes a float": (LANES // 2 * 4, 4, 2, 2),
    "doubles side by side": (LANES * 8, 8, 8, 8),
    "16 bytes a lane": (LANES * 16, 16, 16, 16),
    "halves side by side": (LANES * 2, 2, 2, 2),
    "floats in reverse": ((31 - LANES) * 4, 4, 4, 4),
    "bytes": (LANES, 1, 1, 1),
    "a half-warp": (np.where(LANES < 16, LANES * 4, NOBODY), 4, 2, 2),
    "one lane": (np.where(LANES == 7, 1024, NOBODY), 4, 1, 1),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sectors_of_a_global_request(pattern):
    addresses, size, moved, ideal = PATTERNS[pattern]
    assert sectors(request(addresses)).tolist() == [moved]
    assert ideal_sectors(request(addresses), size).tolist() == [ideal]


# -- Shared memory --------------------------------------------------------------------------------

BANKS = {
    # name: (byte address of each lane, bytes a lane, wavefronts, ways, ideal wavefronts)
    "a word a bank": (LANES * 4, 4, 1, 1, 1),
    "a column of 32 words a row": (LANES * 128, 4, 32, 32, 1),
    "a column of 33 words a row": (LANES * 132, 4, 1, 1, 1),
    "every second word": (LANES * 8, 4, 2, 2, 1),
    "every third word": (LANES * 12, 4, 1, 1, 1),
    "broadcast": (LANES * 0, 4, 1, 1, 1),
    "two words of one bank": (np.where(LANES < 16, 0, 128), 4, 2, 2, 1),
    "doubles, all the same": (LANES * 0, 8, 1, 1, 1),
    "doubles, one a half-warp": (LANES // 16 * 40, 8, 1, 1, 1),
    "doubles, one a half-warp, same banks": (LANES // 16 * 128, 8, 2, 2, 1),
    "doubles, pairs of lanes": (LANES // 2 * 8, 8, 1, 1, 1),
    "doubles, pairs two lanes apart": ((LANES // 4 * 2 + LANES % 2) * 8, 8, 1, 1, 1),
    "doubles, pairs four lanes apart": ((LANES // 8 * 4 + LANES % 4) * 8, 8, 2, 1, 2),
    "doubles, both halves alike": (LANES % 16 * 8, 8, 2, 1, 2),
    "doubles, pairs but for one lane": (np.where(LANES == 31, 320, LANES // 2 * 8), 8, 3, 2, 2),
    "doubles, even lanes": (np.where(LANES % 2, NOBODY, LANES // 2 * 8), 8, 1, 1, 1),
    "doubles, halves conflict apart": ((LANES % 16 * 16 + LANES // 16) * 8, 8, 32, 16, 2),
    "16 bytes, all the same": (LANES * 0, 16, 2, 1, 2),
    "16 bytes, pairs of lanes": (LANES // 2 * 16, 16, 2, 1, 2),
    "16 bytes, pairs but for one lane": (np.where(LANES == 31, 640, LANES // 2 * 16), 16, 3, 1, 3),
    "16 bytes, all quarters alike": (LANES % 8 * 16, 16, 4, 1, 4),
    "16 bytes, a lane a quarter": (np.where(LANES % 8, NOBODY, LANES * 16), 16, 4, 2, 2),
    "16 bytes, first quarter": (np.where(LANES < 8, LANES * 16, NOBODY), 16, 1, 1, 1),
    "halves: two lanes share a word": (LANES * 2, 2, 1, 1, 1),
    "halves, a column of 32 a row": (LANES * 64, 2, 16, 16, 1),
    "halves, a column of 33 a row": (LANES * 66, 2, 1, 1, 1),
    "doubles side by side": (LANES * 8, 8, 2, 1, 2),
    "a column of doubles, 32 a row": (LANES * 256, 8, 32, 16, 2),
    "a column of doubles, 33 a row": (LANES * 264, 8, 2, 1, 2),
    "16 bytes a lane": (LANES * 16, 16, 4, 1, 4),
    "16 bytes a lane, 128 apart": (LANES * 128, 16, 32, 8, 4),
    "one lane": (np.where(LANES == 3, 400, NOBODY), 4, 1, 1, 1),
}


@pytest.mark.parametrize("pattern", BANKS)
def test_wavefronts_of_a_shared_request(pattern):
    addresses, size, passes, ways, ideal = BANKS[pattern]
    counted = wavefronts(request(addresses), size)
    assert [figure.tolist() for figure in counted] == [[passes], [ways], [ideal]]


ATOMICS = {
    # name: (byte address of each lane, sectors)
    "side by side": (LANES * 4, 4),
    "all the same": (LANES * 0, 32),
    "four elements of one sector": (LANES % 4 * 4, 8),
    "one thrice, its neighbour once": (np.where(LANES < 3, 0, np.where(LANES < 4, 4, NOBODY)), 3),
    "one lane": (np.where(LANES == 9, 64, NOBODY), 1),
}


@pytest.mark.parametrize("pattern", ATOMICS)
def test_sectors_of_a_global_atomic(pattern):
    addresses, moved = ATOMICS[pattern]
    both = np.vstack([addresses, LANES * 4])
    assert atomic_sectors(both).tolist() == [moved, 4]


def test_requests_of_several_warps_are_counted_each_by_itself():
    both = np.vstack([LANES * 4, LANES * 128])
    assert wavefronts(both, 4)[0].tolist() == [1, 32]
    assert sectors(both).tolist() == [4, 32]


# -- Lines ----------------------------------------------------------------------------------------


@cuda.jit
def columns(x, out, stride):
    tile = cuda.shared.array(1024, float32)
    t = cuda.threadIdx.x
    tile[t * stride] = x[t]
    cuda.syncthreads()
    out[t] = tile[t * stride]


def line_of(kernel, text):
    code = kernel.py_func.__code__
    with open(code.co_filename) as file:
        lines = file.readlines()[code.co_firstlineno - 1 :]
    return code.co_firstlineno + next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(("stride", "ways"), [(1, 1), (2, 2), (3, 1), (16, 16), (31, 1)])
def test_each_line_has_its_own_account(stride, ways):
    x, out = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    report = simulate(columns, 1, 32, (x, out, stride))
    np.testing.assert_array_equal(out, x)
    store = report.line(line_of(columns, "tile[t * stride] = x"))
    load = report.line(line_of(columns, "out[t] = tile"))
    assert (store.global_requests, store.global_sectors, store.ideal_sectors) == (1, 4, 4)
    assert (store.shared_requests, store.shared_wavefronts) == (1, ways)
    assert store.max_bank_ways == load.max_bank_ways == ways
    assert load.global_sectors == 4
    assert report.shared_wavefronts == 2 * ways
    assert report.ideal_wavefronts == 2
    assert report.barriers == 1
    assert load.worst_shared.addresses == tuple(4 * stride * lane for lane in range(32))


@cuda.jit
def shifted(x, out, shift):
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i] = x[i + shift]


def test_an_account_is_right_where_a_pattern_comes_again_further_on():
    # 40 warps, one of them with 20 lanes; shifted by one float each load needs five sectors.
    n = 40 * 32 - 12
    x, out = np.arange(n + 8, dtype=np.float32), np.zeros(n, np.float32)
    report = simulate(shifted, 5, 256, (x, out, 1))
    np.testing.assert_array_equal(out, x[1 : n + 1])
    assert report.global_requests == 80
    assert report.global_sectors == (39 * 4 + 3) + (39 * 5 + 3)
    assert report.divergent == 1


def test_costs_do_not_depend_on_how_many_blocks_run_together():
    x, out = np.zeros(70_000, np.float32), np.zeros(70_000, np.float32)
    report = simulate(shifted, 70_000 // 128 + 1, 128, (x, out, 0))
    assert report.global_requests == 2 * -(-70_000 // 32)
    assert report.global_sectors == report.ideal_sectors == 2 * 70_000 // 8


def test_views_of_one_allocation_are_counted_from_its_beginning():
    memory = np.zeros(72, np.float32)
    report = simulate(shifted, 1, 32, (memory[:32], memory[33:65], 0))
    assert report.line(line_of(shifted, "out[i] = ")).global_sectors == 4 + 5


def test_without_explanation_nothing_is_counted():
    x, out = np.zeros(32, np.float32), np.zeros(32, np.float32)
    report = simulate(shifted, 1, 32, (x, out, 0), explain=False)
    assert report.lines == []
    assert report.global_requests == 0


# -- Elements of arrays ---------------------------------------------------------------------------


@cuda.jit
def _touch_arrays(x, pair, total):
    i = cuda.grid(1)
    if i < x.size:
        pair[0][i] = x[i] + x[0]
        cuda.atomic.add(total, 0, pair[1][i])


def test_elements_are_counted_by_the_parameter_through_which_they_are_touch_arraysed():
    x, y, z = np.zeros((3, 40), np.float32)
    report = simulate(_touch_arrays, 2, 32, (x, (y, z), np.zeros(1, np.float32)))
    counts = {name: (n.loads, n.stores, n.atomics) for name, n in report.arrays.items()}
    assert counts == {"x": (80, 0, 0), "pair": (40, 40, 0), "total": (0, 0, 40)}


def test_elements_of_shared_memory_do_not_count():
    report = simulate(_through_shared, 1, 32, (np.zeros(32, np.float32),))
    assert (report.arrays["x"].loads, report.arrays["x"].stores) == (32, 32)
    quiet = simulate(_through_shared, 1, 32, (np.zeros(32, np.float32),), explain=False)
    assert quiet.arrays == {}


@cuda.jit
def _through_shared(x):
    tile = cuda.shared.array(32, float32)
    i = cuda.threadIdx.x
    tile[i] = x[i]
    cuda.syncwarp()
    x[i] = tile[31 - i]
