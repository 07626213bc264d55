"""Tiles that one block of a cluster brings for all, and arrivals at barriers of another block."""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, uint16, uint64
from numba.cuda import types

from llm_numba import runtime
from llm_numba.kernels import ptx
from llm_numba.runtime import tensor_map
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.signature import TENSOR_MAP
from llm_numba.simulator import simulate
from llm_numba.simulator.clusters import in_clusters
from llm_numba.simulator.errors import DescriptorError, OutOfBoundsError, RaceError

THREADS, ROWS, COLUMNS = 64, 16, 64
PART = ROWS * COLUMNS
SHARED = 2 * 2 * PART + 1024
READY, FULL, FREE = 0, 1, 2


def halves(mistake="nothing"):
    """Make a kernel whose two blocks bring half of a tile each, for both; twice."""
    MASK = {"outside": 4, "nobody": 0}.get(mistake, 3)
    OTHER = 2 if mistake == "a third" else 1
    MEETS, ARRIVES = mistake != "no begin", mistake != "own place"
    # Or nothing is fenced but the barriers; or not even those.
    LITTLE, FENCES = mistake in ("barriers alone", "unfenced"), mistake == "barriers alone"

    @in_clusters(2)
    @cuda.jit
    def kernel(x_map, out):
        x_map = ptx.parameter(x_map)
        tiles = cuda.shared.array(0, uint16)
        bars = cuda.shared.array(3, uint64)
        t, rank = cuda.threadIdx.x, ptx.cluster_rank()
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
        if t == 0:
            ptx.mbarrier_init(bars, FULL, 1)
            ptx.mbarrier_init(bars, FREE, 4)
            ptx.fence_async()
            if FENCES:
                ptx.fence_barriers()
        if LITTLE:
            cuda.syncwarp()
            ptx.cluster_arrive()
            ptx.cluster_wait()
        elif MEETS:
            ptx.cluster_sync()
        for turn in range(2):
            if t == 0:
                while not ptx.mbarrier_test(bars, FREE, turn ^ 1):
                    pass
                ptx.mbarrier_expect(bars, FULL, 2 * 2 * PART)
                row = (2 * turn + rank) * ROWS
                ptx.tma_multicast_2d(tiles, first + rank * PART, x_map, 0, row, bars, FULL, MASK)
            while not ptx.mbarrier_test(bars, FULL, turn):
                pass
            for row in range(2 * ROWS):
                place = first + row * COLUMNS + (t // 8 ^ row % 8) * 8 + t % 8
                out[cuda.blockIdx.x, 2 * ROWS * turn + row, t] = tiles[place]
            cuda.syncwarp()
            if t % 32 == 0:
                ptx.mbarrier_arrive_at(bars, FREE, rank)
                if ARRIVES:
                    ptx.mbarrier_arrive_at(bars, FREE, rank ^ OTHER)
                else:
                    ptx.mbarrier_arrive_at(bars, FREE, rank)
        ptx.cluster_sync()

    return kernel


def operands(device="sim", blocks=4):
    x = np.arange(4 * ROWS * COLUMNS, dtype=np.uint16).reshape(4 * ROWS, COLUMNS)
    out = np.zeros((blocks, *x.shape), np.uint16)
    return runtime.to_device(x.view("bfloat16"), device), runtime.to_device(out, device)


def run(kernel, **options):
    x, out = operands()
    args = np.asarray(tensor_map(x, ROWS)), np.asarray(out)
    simulate(kernel, 4, THREADS, args, SHARED, **options)
    np.testing.assert_array_equal(out, np.broadcast_to(x.view(np.uint16), out.shape))


def test_each_block_has_both_halves(device):
    x, out = operands(device)
    if not runtime.has_capability(x, (9, 0)):
        pytest.skip("this GPU has no clusters")
    runtime.launch(halves(), 4, THREADS, (tensor_map(x, ROWS), out), SHARED)
    want = np.broadcast_to(runtime.to_host(x).view(np.uint16), out.shape)
    np.testing.assert_array_equal(runtime.to_host(out), want)


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_matter_which_block_is_first_and_what_arrives_last(seed):
    run(halves(), schedule="random", seed=seed)
    run(halves("barriers alone"), schedule="random", seed=seed)


@pytest.mark.parametrize(
    ("mistake", "error", "said"),
    [
        ("outside", DescriptorError, "the mask 0b100, in a cluster of 2"),
        ("nobody", DescriptorError, "the mask 0b0, in a cluster"),
        ("a third", OutOfBoundsError, "of a cluster of 2"),
        ("no begin", RaceError, "may not have begun"),
        ("own place", RaceError, "`tiles`"),
        ("unfenced", RaceError, "`bars`"),
    ],
)
def test_a_planted_mistake_is_found(mistake, error, said):
    with pytest.raises(error, match=said):
        run(halves(mistake))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_they_are_one_instruction_each():
    text = compile_to_ptx(halves("barriers alone"), (TENSOR_MAP, types.uint16[:, :, ::1]), (9, 0))
    for instruction in (
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster",
        "mapa.shared::cluster.u32",
        "mbarrier.arrive.shared::cluster.b64",
        "fence.mbarrier_init.release.cluster;",
    ):
        assert instruction in text
    assert "0 bytes spill stores" in assemble(text, (9, 0))
