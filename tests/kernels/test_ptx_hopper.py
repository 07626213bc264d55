"""Copy engine, barriers that count, and tensor cores of a warpgroup: right, and what goes wrong.

One kernel brings tiles and multiplies them; each planted mistake is a line of it left out.
"""

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, float32, int32, uint16, uint64
from numba.cuda import types

from llm_numba import runtime
from llm_numba.errors import CompileError, KernelArgumentError
from llm_numba.kernels import ptx
from llm_numba.runtime import tensor_map
from llm_numba.runtime.offline import assemble, compile_to_ptx, compiler_problem
from llm_numba.runtime.signature import TENSOR_MAP
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import (
    BarrierDivergenceError,
    DeadlockError,
    DescriptorError,
    OutOfBoundsError,
    ProxyError,
    RaceError,
    UninitializedReadError,
)

THREADS = 128
ROWS, COLUMNS, DEPTH = 64, 24, 64
SUMS = COLUMNS // 2
TILE = ROWS * DEPTH
BYTES = 2 * DEPTH * (ROWS + COLUMNS)
SHARED = 2 * (TILE + COLUMNS * DEPTH) + 1024
HOPPER = (9, 0, "a")

RIGHT = "nothing"
FULL, FREE = 0, 1


@cuda.jit(device=True)
def put(acc, out, first_row):
    """Write a warpgroup's [64, COLUMNS] share, as its fragments lie."""
    lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % 128 // 32
    row, column = first_row + 16 * warp + lane // 4, lane % 4 * 2
    for j in range(COLUMNS // 8):
        for h in range(2):
            if row + 8 * h < out.shape[0]:
                for e in range(2):
                    out[row + 8 * h, 8 * j + column + e] = acc[4 * j + 2 * h + e]


def by_copy_engine(mistake):
    """Make a kernel that multiplies [64, K] by [24, K]: a thread brings tiles, all multiply."""
    WAITS, FENCES, ANNOUNCES = mistake != "no wait", mistake != "no fence", mistake != "no bytes"
    FENCES_BARRIERS, FINISHES = mistake != "barrier unfenced", mistake != "unfinished"
    EARLY, EXTRA = mistake == "freed early", 16 if mistake == "too many bytes" else 0
    SHIFT = {"unaligned": 8, "outside": 1 << 18}.get(mistake, 0)
    FLIP = {"no swizzle": 1 << 62, "short stride": 96 << 32, "stride": 0x2040 << 32}.get(mistake, 0)

    @cuda.jit
    def kernel(a_map, b_map, K, out):
        a_map, b_map = ptx.parameter(a_map), ptx.parameter(b_map)
        tiles = cuda.shared.array(0, uint16)
        bars = cuda.shared.array(2, uint64)
        acc = cuda.local.array(SUMS, float32)
        t = cuda.threadIdx.x
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2 + SHIFT
        if t == 0:
            ptx.mbarrier_init(bars, FULL, 1)
            ptx.mbarrier_init(bars, FREE, 4)
            if FENCES_BARRIERS:
                ptx.fence_async()
        cuda.syncthreads()
        a = ptx.matrix_descriptor(tiles, first) ^ uint64(FLIP)
        b = ptx.matrix_descriptor(tiles, first + TILE)
        phase = int32(0)
        for k in range(0, K, DEPTH):
            if t == 0:
                while not ptx.mbarrier_test(bars, FREE, phase ^ 1):
                    pass
                if ANNOUNCES:
                    ptx.mbarrier_expect(bars, FULL, BYTES + EXTRA)
                else:
                    ptx.mbarrier_arrive(bars, FULL)
                ptx.tma_load_2d(tiles, first, a_map, k, cuda.blockIdx.x * ROWS, bars, FULL)
                ptx.tma_load_2d(tiles, first + TILE, b_map, k, 0, bars, FULL)
            if WAITS:
                while not ptx.mbarrier_test(bars, FULL, phase):
                    pass
            if FENCES:
                ptx.wgmma_fence()
            for i in range(4):
                # 16 numbers are 32 bytes, and a descriptor counts 16.
                ptx.wgmma(tiles, acc, a + uint64(2 * i), b + uint64(2 * i), COLUMNS, k + i > 0)
            ptx.wgmma_commit()
            if EARLY and t % 32 == 0:
                ptx.mbarrier_arrive(bars, FREE)
            if FINISHES:
                ptx.wgmma_wait(0)
            if not EARLY and t % 32 == 0:
                ptx.mbarrier_arrive(bars, FREE)
            phase ^= 1
        put(acc, out, cuda.blockIdx.x * ROWS)

    return kernel


def by_stores(mistake, STORED=types.uint16):
    """Make a kernel that fills the tiles with ordinary stores."""
    FENCES, LATE = mistake != "no fence", mistake == "late fence"

    @cuda.jit
    def kernel(a, b, out):
        tiles = cuda.shared.array(0, STORED)
        acc = cuda.local.array(SUMS, float32)
        t = cuda.threadIdx.x
        first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
        for i in range(t, (ROWS + COLUMNS) * DEPTH, THREADS):
            row, k = i // DEPTH, i % DEPTH
            place = row * DEPTH + (k // 8 ^ row % 8) * 8 + k % 8
            tiles[first + place] = a[row, k] if row < ROWS else b[row - ROWS, k]
        if FENCES and not LATE:
            ptx.fence_async()
        cuda.syncthreads()
        if LATE:
            ptx.fence_async()
        ptx.wgmma_fence()
        for i in range(4):
            at = ptx.matrix_descriptor(tiles, first) + uint64(2 * i)
            ptx.wgmma(tiles, acc, at, at + uint64(TILE // 8), COLUMNS, i > 0)
        ptx.wgmma_commit()
        ptx.wgmma_wait(0)
        put(acc, out, 0)

    return kernel


def whole_numbers(shape, dtype, seed):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


def operands(M=ROWS, K=2 * DEPTH, dtype="bfloat16", device="sim"):
    a, b = whole_numbers((M, K), dtype, 0), whole_numbers((COLUMNS, K), dtype, 1)
    out = np.full((M, COLUMNS), np.nan, np.float32)
    return [runtime.to_device(each, device) for each in (a, b, out)]


def exact(a, b):
    return runtime.to_host(a).astype(np.float64) @ runtime.to_host(b).astype(np.float64).T


def arguments(a, b, out):
    return tensor_map(a, ROWS), tensor_map(b, COLUMNS), a.shape[1], out


def simulated(mistake, schedule="ordered", seed=0, K=2 * DEPTH):
    a, b, out = operands(K=K)
    args = [np.asarray(each) for each in arguments(a, b, out)]
    args[2] = K
    simulate(by_copy_engine(mistake), 1, THREADS, tuple(args), SHARED, schedule=schedule, seed=seed)
    np.testing.assert_array_equal(out, exact(a, b))


def _skip_unless_hopper(array):
    if not runtime.is_architecture(array, (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")


@pytest.mark.parametrize("M", [64, 100])
def test_tiles_that_the_copy_engine_brings_are_multiplied(M, device):
    a, b, out = operands(M, 200, device=device)
    _skip_unless_hopper(a)
    grid = -(-M // ROWS)
    runtime.launch(by_copy_engine(RIGHT), grid, THREADS, arguments(a, b, out), SHARED)
    np.testing.assert_array_equal(runtime.to_host(out), exact(a, b))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tiles_that_threads_store_are_multiplied(dtype, device):
    a, b, out = operands(K=DEPTH, dtype=dtype, device=device)
    _skip_unless_hopper(a)
    kernel = by_stores(RIGHT, {"float16": types.float16, "bfloat16": types.uint16}[dtype])
    runtime.launch(kernel, 1, THREADS, (a, b, out), SHARED)
    np.testing.assert_array_equal(runtime.to_host(out), exact(a, b))


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_matter_what_arrives_first(seed):
    simulated(RIGHT, "random", seed)


@cuda.jit
def two_warpgroups(a, b, out):
    """Multiply twice 64 rows by the same B; each warpgroup has an accumulator of its own name."""
    tiles = cuda.shared.array(0, uint16)
    upper, lower = cuda.local.array(SUMS, float32), cuda.local.array(SUMS, float32)
    first = -int(ptx.shared_address(tiles, 0)) % 1024 // 2
    for i in range(cuda.threadIdx.x, (2 * ROWS + COLUMNS) * DEPTH, 2 * THREADS):
        row, k = i // DEPTH, i % DEPTH
        place = row * DEPTH + (k // 8 ^ row % 8) * 8 + k % 8
        tiles[first + place] = a[row, k] if row < 2 * ROWS else b[row - 2 * ROWS, k]
    ptx.fence_async()
    cuda.syncthreads()
    of_a = ptx.matrix_descriptor(tiles, first)
    of_b = ptx.matrix_descriptor(tiles, first + 2 * TILE)
    ptx.wgmma_fence()
    for i in range(4):
        further = uint64(2 * i)
        if cuda.threadIdx.x < THREADS:
            ptx.wgmma(tiles, upper, of_a + further, of_b + further, COLUMNS, i > 0)
        else:
            of_lower = of_a + uint64(TILE // 8) + further
            ptx.wgmma(tiles, lower, of_lower, of_b + further, COLUMNS, i > 0)
    ptx.wgmma_commit()
    ptx.wgmma_wait(0)
    if cuda.threadIdx.x < THREADS:
        put(upper, out, 0)
    else:
        put(lower, out, ROWS)


@pytest.mark.parametrize("seed", range(3))
def test_warpgroups_are_at_different_products_at_the_same_time(seed):
    a, b, out = operands(2 * ROWS, DEPTH)
    args = tuple(np.asarray(each) for each in (a.view(np.uint16), b.view(np.uint16), out))
    simulate(two_warpgroups, 1, 2 * THREADS, args, SHARED + 2 * TILE, schedule="random", seed=seed)
    np.testing.assert_array_equal(out, exact(a, b))


# -- What must not pass ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "error", "said"),
    [
        ("no wait", RaceError, "`tiles` that thread 0 of block 0 wrote"),
        ("no bytes", RaceError, "`tiles` that thread 0 of block 0 wrote"),
        ("too many bytes", DeadlockError, "in a loop for memory that no other thread changes"),
        ("barrier unfenced", ProxyError, "`bars`.*no fence.*fence_async"),
        ("no fence", BarrierDivergenceError, "registers nothing made ready"),
        ("unfinished", UninitializedReadError, "while tensor cores still work with it"),
        ("freed early", RaceError, "`tiles`"),
        ("unaligned", DescriptorError, "multiple of 1024 bytes"),
        ("outside", DescriptorError, "within the block's shared memory"),
        ("no swizzle", DescriptorError, "whose swizzle is 0"),
        ("stride", OutOfBoundsError, "address and strides"),
        ("short stride", AssertionError, "not equal"),
    ],
)
def test_a_planted_mistake_is_found(mistake, error, said):
    with pytest.raises(error, match=said):
        simulated(mistake, K=3 * DEPTH)


@pytest.mark.parametrize("mistake", ["no fence", "late fence"])
def test_stores_that_no_fence_shows_to_tensor_cores_are_found(mistake):
    a, b, out = operands(K=DEPTH)
    args = tuple(np.asarray(each) for each in (a.view(np.uint16), b.view(np.uint16), out))
    with pytest.raises(ProxyError, match="no fence for that proxy behind it"):
        simulate(by_stores(mistake), 1, THREADS, args, SHARED)


@cuda.jit
def wait_at_what_is_no_barrier(out):
    bars = cuda.shared.array(1, uint64)
    while not ptx.mbarrier_test(bars, 0, 0):
        pass
    out[0] = float32(1)


def test_a_barrier_must_be_made_one():
    with pytest.raises(UninitializedReadError, match="nobody has made one"):
        simulate(wait_at_what_is_no_barrier, 1, 32, (np.zeros(1, np.float32),))


def test_a_map_of_a_matrix_that_is_gone_is_refused():
    a, b, out = operands()
    maps = [tensor_map(each, rows) for each, rows in ((a, ROWS), (b, COLUMNS))]
    del a
    with pytest.raises(DescriptorError, match="`a_map` for a tensor map, which it is not"):
        runtime.launch(by_copy_engine(RIGHT), 1, THREADS, (*maps, b.shape[1], out), SHARED)


def test_what_the_copy_engine_cannot_address_is_refused_with_the_reason():
    for matrix, why in [
        (np.zeros((4, 12), np.float16), "no multiple of 8"),
        (np.zeros((4, 8), np.int32), "elements are int32"),
        (np.zeros((4, 6), np.float32), "no multiple of 4"),
        (np.zeros((8, 4), np.float16).T, "not C-contiguous"),
        (np.zeros((0, 8), np.float16), "no elements"),
    ]:
        with pytest.raises(KernelArgumentError, match=why):
            tensor_map(runtime.to_device(matrix, "sim"), 64)
    odd = runtime.to_device(np.zeros(33, np.float16), "sim")[1:].reshape(4, 8)
    with pytest.raises(KernelArgumentError, match="multiple of 16 bytes"):
        tensor_map(odd, 64)
    with pytest.raises(KernelArgumentError, match="tile of 257 rows"):
        tensor_map(runtime.to_device(np.zeros((4, 8), np.float16), "sim"), 257)


# -- What is compiled --------------------------------------------------------------------------


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
def test_they_are_instructions_of_one_architecture():
    signature = (TENSOR_MAP, TENSOR_MAP, types.int64, types.float32[:, ::1])
    text = compile_to_ptx(by_copy_engine(RIGHT), signature, HOPPER)
    for instruction in (
        "mbarrier.init.shared::cta.b64",
        "mbarrier.arrive.expect_tx.shared::cta.b64",
        "mbarrier.try_wait.parity.shared::cta.b64",
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes",
        "fence.proxy.async.shared::cta",
        "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16",
        "wgmma.wait_group.sync.aligned 0",
    ):
        assert instruction in text
    assert "0 bytes spill stores" in assemble(text, HOPPER)
    with pytest.raises(CompileError):
        assemble(compile_to_ptx(by_copy_engine(RIGHT), signature, (9, 0)), (9, 0))


@pytest.mark.ptx
@pytest.mark.skipif(compiler_problem() is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, d: ptx.wgmma(x, x, d, d, 24, True), "adds to a float32 array"),
        (lambda x, d: ptx.wgmma_wait(d), "takes a constant"),
        (lambda x, d: ptx.give_registers(30), "takes a constant"),
        (lambda x, d: ptx.mbarrier_arrive(x, 0), "shared array of uint64"),
        (lambda x, d: ptx.wgmma(x, x, d, d, 12, True), "constant number of columns"),
    ],
)
def test_operands_of_wrong_types_are_refused(call, said):
    with pytest.raises(Exception, match=said):
        compile_to_ptx(cuda.jit(call), (types.uint16[::1], types.uint64), HOPPER)
