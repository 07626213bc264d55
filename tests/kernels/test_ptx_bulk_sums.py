"""Tiles of other formats, tiles that the copy engine adds, and what it fetches ahead of time."""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, uint64
from numba.cuda import types

from llm_numba import runtime
from llm_numba.errors import CompileError
from llm_numba.kernels import ptx
from llm_numba.runtime import tensor_map
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.signature import TENSOR_MAP
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import DescriptorError

ROWS, LINE, BLOCKS, THREADS = 16, 128, 3, 32
BYTES = ROWS * LINE
SHARED = BYTES + 1024
STORED = {
    "float32": types.float32,
    "float16": types.float16,
    "bfloat16": types.uint16,
    "int8": types.int8,
    "uint8": types.uint8,
}


def moving(dtype, adds, waits=True):
    """Make a kernel whose blocks fetch a tile each, to add all at one place, or put back each."""
    ELEMENT, SIZE = STORED[dtype], np.dtype(dtype).itemsize

    @cuda.jit
    def kernel(x_map, out_map):
        x_map, out_map = ptx.parameter(x_map), ptx.parameter(out_map)
        tiles, bars = cuda.shared.array(0, ELEMENT), cuda.shared.array(1, uint64)
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // SIZE
        if cuda.threadIdx.x == 0:
            ptx.prefetch_map(out_map)
            ptx.tma_prefetch_2d(x_map, 0, cuda.blockIdx.x * ROWS)
            ptx.mbarrier_init(bars, 0, 1)
            ptx.fence_async()
            ptx.mbarrier_expect(bars, 0, BYTES)
            ptx.tma_load_2d(tiles, first, x_map, 0, cuda.blockIdx.x * ROWS, bars, 0)
            while not ptx.mbarrier_test(bars, 0, 0):
                pass
            if adds:
                ptx.tma_reduce_add_2d(tiles, first, out_map, 8, 4)
            else:
                ptx.tma_store_2d(tiles, first, out_map, 0, cuda.blockIdx.x * ROWS)
            ptx.bulk_commit()
            if waits:
                ptx.bulk_wait(0)

    return kernel


def operands(dtype, shape, device="sim"):
    columns = LINE // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (BLOCKS * ROWS, columns)).astype(dtype)
    held = rng.integers(0, 9, shape).astype(dtype)
    return [runtime.to_device(each, device) for each in (x, held)]


def launch(kernel, x, out):
    if not runtime.has_capability(x, (9, 0)):
        pytest.skip("this GPU has no copy engine for tiles")
    args = tensor_map(x, ROWS), tensor_map(out, ROWS)
    runtime.launch(kernel, BLOCKS, THREADS, args, SHARED)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_tiles_of_other_formats_are_moved(dtype, device):
    columns = LINE // np.dtype(dtype).itemsize
    x, out = operands(dtype, (BLOCKS * ROWS, columns), device)
    launch(moving(dtype, adds=False), x, out)
    np.testing.assert_array_equal(runtime.to_host(out), runtime.to_host(x))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_parts_of_all_blocks_are_added_where_the_matrix_is(dtype, device):
    """Tiles stand out over two edges of a matrix of 16 rows and 24 columns."""
    x, out = operands(dtype, (ROWS, 24), device)
    held = runtime.to_host(out).astype(np.float64)
    launch(moving(dtype, adds=True), x, out)
    parts = runtime.to_host(x).astype(np.float64).reshape(BLOCKS, ROWS, -1)
    held[4:, 8:] += parts.sum(axis=0)[: ROWS - 4, :16]
    np.testing.assert_array_equal(runtime.to_host(out).astype(np.float64), held)


def simulated(kernel, x, out, **options):
    args = np.asarray(tensor_map(x, ROWS)), np.asarray(tensor_map(out, ROWS))
    simulate(kernel, BLOCKS, THREADS, args, SHARED, **options)


def test_sums_come_at_the_wait_and_in_any_order():
    x, out = operands("float32", (ROWS, 24))
    before = out.copy()
    simulated(moving("float32", adds=True, waits=False), x, out)
    np.testing.assert_array_equal(out, before)
    seen = set()
    for seed in range(8):
        x, out = operands("float32", (ROWS, 24))
        x[:] = np.float32(2) ** np.repeat([24, 0, 0], ROWS)[:, None]
        out[:] = 0
        simulated(moving("float32", adds=True), x, out, schedule="random", seed=seed)
        seen.add(float(out[4, 8]))
    assert seen == {2.0**24, 2.0**24 + 2}


def test_bytes_are_not_added():
    with pytest.raises(DescriptorError, match="to a matrix of int8 by the copy engine"):
        simulated(moving("int8", adds=True), *operands("int8", (ROWS, 32)))


@cuda.jit
def fetch_what_is_no_map(x):
    ptx.prefetch_map(x)


def test_what_is_fetched_ahead_must_be_a_map():
    with pytest.raises(DescriptorError, match="`x` for a tensor map, which it is not"):
        simulate(fetch_what_is_no_map, 1, 1, (np.zeros(16, np.uint64),))


# -- What is compiled --------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_each_is_one_instruction():
    signature = TENSOR_MAP, TENSOR_MAP
    text = compile_to_ptx(moving("float32", adds=True), signature, (9, 0))
    for instruction in (
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group",
        "cp.async.bulk.prefetch.tensor.2d.L2.global.tile",
        "prefetch.tensormap",
    ):
        assert text.count(instruction) == 1
    assert ".local" not in text
    assemble(text, (9, 0))
    with pytest.raises(CompileError):
        assemble(compile_to_ptx(moving("float32", adds=True), signature, (8, 0)), (8, 0))
