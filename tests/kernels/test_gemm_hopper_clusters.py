"""Products in clusters, and tiles that are stored during the next one: right in any order.

Each planted mistake is a line of a kernel changed. The bound on the error is that of the ladder's.
"""

import numpy as np
import pytest
from gemm_cases import U, assert_near, numbers
from planting import changed

from llm_numba.kernels import gemm_hopper_clusters as clusters_file
from llm_numba.kernels import gemm_hopper_overlapped as overlapped_file
from llm_numba.kernels import gemm_hopper_pieces as pieces_file
from llm_numba.kernels.gemm_hopper_clusters import clusters
from llm_numba.kernels.gemm_hopper_overlapped import OVERLAPPED
from llm_numba.kernels.gemm_hopper_pieces import Tile
from llm_numba.kernels.gemm_hopper_plans import COLUMN_TIME, LARGE, plan, tile_for
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE, staging_bytes
from llm_numba.runtime import empty, kernel_view, tensor_map, to_device
from llm_numba.runtime.limits import LIMITS
from llm_numba.simulator import simulate
from llm_numba.simulator.clusters import cluster_of
from llm_numba.simulator.errors import (
    DeadlockError,
    DescriptorError,
    RaceError,
    SimulationError,
)

CUT_OFF = 2 * U
LITTLE = Tile(128, 128, 2)  # stages are used again and again
THIRDS = Tile(128, 192, 3)  # three boxes, through three rooms


def multiply_with(kernel, tile=LITTLE, M=130, N=200, K=136, blocks=2, **options):
    """Run a kernel in the simulator; most of the second block's tile lies below the matrix."""
    x, weight = (to_device(numbers(n, K, dtype="bfloat16"), "sim") for n in (M, N))
    out = to_device(np.full((M, N), np.nan, x.dtype), "sim")
    box = tile.columns // cluster_of(kernel)
    maps = tensor_map(x, tile.rows), tensor_map(weight, box), tensor_map(out, 64)
    a_map, b_map, c_map = map(np.asarray, maps)
    nothing = np.zeros(0, np.uint16), np.zeros((0, 0), np.uint16)
    args = (a_map, b_map, K, np.asarray(kernel_view(out)), 2, c_map, *nothing)
    shared_bytes = tile.shared_bytes + staging_bytes(tile)
    simulate(kernel, blocks, 384, args, shared_bytes, **options)
    assert_near(np.asarray(out), np.asarray(x), np.asarray(weight), u=CUT_OFF)


@pytest.mark.parametrize("ending", [BY_ENGINE, OVERLAPPED], ids=["stored", "overlapped"])
@pytest.mark.parametrize(
    ("tile", "shape", "blocks"),
    [
        (LITTLE, (300, 72, 136), 2),
        (LITTLE, (260, 392, 8), 4),  # fewer slabs than boxes
        (THIRDS, (100, 200, 264), 2),
    ],
)
def test_clusters_multiply_tile_after_tile(ending, tile, shape, blocks):
    M, N, K = shape
    kernel = clusters("bfloat16", tile, ending)
    multiply_with(kernel, tile, M, N, K, blocks)


@pytest.mark.parametrize(("N", "K"), [(392, 200), (200, 8)])
def test_a_block_alone_stores_during_its_next_tile_too(N, K):
    multiply_with(specialised("bfloat16", LITTLE, OVERLAPPED), M=70, N=N, K=K, blocks=1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [BY_ENGINE, OVERLAPPED], ids=["stored", "overlapped"])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_right_in_any_order(ending, seed):
    kernel = clusters("bfloat16", LITTLE, ending)
    multiply_with(kernel, M=300, K=200, schedule="random", seed=seed)


# -- Planted mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        # The other block gets nothing, and waits for bytes that do not come.
        ("full, stage, _EVERYONE)", "full, stage, 1 << rank)", DeadlockError),
        # A block that is not there.
        ("full, stage, _EVERYONE)", "full, stage, 7)", DescriptorError),
        # Both bring the same half.
        ("to = at + B_BEGINS + rank * HALF * SLAB", "to = at + B_BEGINS", SimulationError),
        # The stage of this block is free, that of the other may not be.
        ("GROUP_WARPS * tile.groups * BLOCKS", "GROUP_WARPS * tile.groups", SimulationError),
        # Others arrive, or bring, before the barriers are made.
        ("            ptx.fence_async()\n        ptx.cluster_sync()",
         "            ptx.fence_async()\n        cuda.syncthreads()", RaceError),
    ],
    ids=["mask", "no such block", "same half", "own arrivals", "no begin"],
)  # fmt: skip
def test_a_mistake_among_blocks_is_found(text, instead, error):
    kernel = changed(clusters_file, (text, instead))["clusters"]("bfloat16", LITTLE, BY_ENGINE)
    with pytest.raises(error):
        multiply_with(kernel)


def multiply_in_three_orders(kernel):
    for seed in range(3):
        multiply_with(kernel, N=72, K=8, schedule="random", seed=seed)


def test_a_block_that_ends_while_the_other_arrives_at_its_barriers_is_found():
    end = "        ptx.cluster_arrive()\n        ptx.cluster_wait()\n"
    kernel = changed(clusters_file, (end, ""))["clusters"]("bfloat16", LITTLE, BY_ENGINE)
    with pytest.raises(RaceError, match="that has ended"):
        multiply_in_three_orders(kernel)


def test_a_stage_that_only_its_own_block_sets_free_is_found(monkeypatch):
    scope = changed(pieces_file, ("for block in range(BLOCKS):", "for block in range(1):"))
    monkeypatch.setattr("llm_numba.kernels.gemm_hopper_specialised.freeing", scope["freeing"])
    with pytest.raises(SimulationError):
        multiply_with(clusters.__wrapped__("bfloat16", LITTLE, BY_ENGINE))


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        ("        await_room(number, box)\n", "", AssertionError),
        ("            ptx.bulk_wait(0)\n", "            pass\n", AssertionError),
        # Sums are rounded before the last products have been added.
        ("            leave(free, count)\n",
         "            pass\n",
         SimulationError),
        # The tile before is stored where the next one lies.
        ("            row += share()\n", "", AssertionError),
    ],
    ids=["room not free", "no end", "rounded early", "place"],
)  # fmt: skip
def test_a_mistake_in_storing_during_the_next_tile_is_found(text, instead, error):
    ending = changed(overlapped_file, (text, instead))["OVERLAPPED"]
    with pytest.raises(error):
        multiply_with(clusters("bfloat16", LITTLE, ending), N=392)


# -- Which tile -----------------------------------------------------------------------------------


def test_tiles_fit_the_memory_and_the_registers_of_an_sm():
    for tile in COLUMN_TIME:
        taken = tile.shared_bytes + staging_bytes(tile) + 16 * tile.stages
        assert taken <= LIMITS[9, 0].block_shared_bytes
    given = 128 * (pieces_file.OF_PRODUCER + 2 * pieces_file.OF_CONSUMER)
    assert given <= 65536 // 384 // 8 * 8 * 384


@pytest.mark.parametrize(
    ("M", "N", "columns"),
    [
        (8192, 8192, 256),  # many waves
        (512, 6144, 192),  # 64 clusters, one wave; of 256 columns 48, and as long as 64
        (1024, 10240, 224),  # 3 waves of 66 clusters, as with 256
        (512, 4096, 128),  # one wave of each
        (2048, 4096, 256),  # one wave, of 128 columns two: a narrow tile's columns take longer
        (1, 16, 128),
    ],
)
def test_the_tile_is_the_one_whose_waves_take_least(M, N, columns):
    assert tile_for(M, N, 132, 2).columns == columns


@pytest.mark.parametrize(
    ("M", "N", "columns"),
    [
        (1024, 10240, 224),  # 3 waves of blocks; 256 columns take as many, 192 one more
        (512, 10240, 160),  # 2 waves, as with 192
        (512, 28672, 224),  # 4 waves, as with 256
        (2048, 28672, 256),
        (1024, 6144, 192),
        (512, 4096, 128),
    ],
)
def test_without_clusters_waves_are_of_blocks(M, N, columns):
    assert tile_for(M, N, 132).columns == columns


def test_no_more_blocks_are_launched_than_there_are_places():
    x, weight = (to_device(np.zeros((n, 64), np.float16), "sim") for n in (600, 520))
    (launch,) = plan(x, weight, empty((600, 520), x.dtype, like=x))
    assert launch.grid == (2,)  # the simulated GPU has two multiprocessors
    assert LARGE in COLUMN_TIME
