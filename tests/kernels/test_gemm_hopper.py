"""Every step of the Hopper ladder against the reference in float64; planted mistakes are found.

The bound on the error is derived in ``gemm_cases``.
"""

import itertools

import numpy as np
import pytest
from gemm_cases import U, assert_near, numbers
from numba import cuda
from planting import changed

from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.kernels import gemm_hopper as hopper
from llm_numba.kernels import gemm_hopper_specialised as specialised_file
from llm_numba.kernels import gemm_hopper_stored as stored_file
from llm_numba.kernels.gemm_hopper import LADDER, LARGE, SMALL, gemm_hopper
from llm_numba.kernels.gemm_hopper_pieces import (
    OF_CONSUMER,
    OF_PRODUCER,
    Ending,
    Tile,
    place_of,
)
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE, staging_bytes
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.runtime import empty, is_architecture, kernel_view, tensor_map, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import (
    DeadlockError,
    ProxyError,
    RaceError,
    SimulationError,
)

STEPS = [step.name for step in LADDER.steps]
LAST = STEPS[-1]
each_step = pytest.mark.parametrize("step", STEPS)
CUT_OFF = 2 * U
ABSENT = np.zeros(0, np.uint16), np.zeros((0, 0), np.uint16)  # bias, and what lies beside C
LITTLE = Tile(128, 16, 2)  # stages are used again and again
BOXES = Tile(128, 256, 2)  # four boxes through two rooms


def _skip_unless_hopper(array):
    if not is_architecture(array, (9, 0)):
        pytest.skip("this GPU is not of compute capability 9.0")


def run(x, weight, device, **options):
    x, weight = to_device(x, device), to_device(weight, device)
    _skip_unless_hopper(x)
    return to_host(gemm_hopper(x, weight, **options))


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [
        (1, 1, 8, "bfloat16"),
        (7, 34, 72, "float16"),
        (130, 267, 136, "bfloat16"),
        (67, 328, 8, "float16"),
    ],
)
def test_each_step_is_the_reference(M, N, K, dtype, step, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device, step=step), x, weight, u=CUT_OFF)


@pytest.mark.slow
@each_step
def test_many_tiles_and_slabs(step, device):
    x, weight = numbers(300, 520, dtype="float16"), numbers(700, 520, dtype="float16")
    assert_near(run(x, weight, device, step=step), x, weight, u=CUT_OFF)


@each_step
def test_nothing_to_add_or_to_write(step, device):
    assert run(numbers(0, 8, dtype="float16"), numbers(5, 8, dtype="float16"), device).shape == (
        0,
        5,
    )
    no_numbers = numbers(3, 0, dtype="float16"), numbers(5, 0, dtype="float16")
    assert (run(*no_numbers, device, step=step) == 0).all()


@each_step
def test_what_is_no_number_reaches_its_row_and_no_other(step, device):
    x, weight = numbers(9, 72, dtype="bfloat16"), np.abs(numbers(33, 72, dtype="bfloat16"))
    x[7, 71] = np.inf
    x[8, 0] = np.nan
    y = run(x, weight, device, step=step)
    assert np.isposinf(y[7].astype(np.float32)).all()
    assert np.isnan(y[8].astype(np.float32)).all()
    assert_near(y[:7], x[:7], weight, u=CUT_OFF)


def test_an_output_has_the_same_bits_in_every_step(device):
    x, weight = numbers(70, 200, dtype="bfloat16"), numbers(40, 200, dtype="bfloat16")
    first, *others = (run(x, weight, device, step=step) for step in STEPS)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_tiles_are_gone_through_in_groups_and_each_once():
    @cuda.jit
    def places(down, across, together, out):
        tile = cuda.threadIdx.x
        out[tile, 0], out[tile, 1] = place_of(tile, down, across, together)

    for down, across, together in itertools.product((1, 3, 5), (1, 4), (1, 2, 16)):
        out = np.zeros((down * across, 2), np.int64)
        simulate(places, 1, down * across, (down, across, together, out))
        assert {tuple(place) for place in out} == {*itertools.product(range(down), range(across))}
        rows = out[: min(together, down) * across, 0]
        assert set(rows) == {*range(min(together, down))}


def test_tiles_fit_the_memory_and_the_registers_of_an_sm():
    for tile in (SMALL, LARGE):
        taken = tile.shared_bytes + staging_bytes(tile) + 16 * tile.stages
        assert taken <= LIMITS[9, 0].block_shared_bytes
        threads = 128 * (tile.groups + 1)
        given = 128 * (OF_PRODUCER + tile.groups * OF_CONSUMER)
        assert given <= 65536 // threads // 8 * 8 * threads


# -- Orders and planted mistakes --------------------------------------------------------------


def multiply_with(kernel, M=100, N=40, K=328, blocks=1, tile=LITTLE, **options):
    """Run a kernel of little tiles in the simulator, many slabs through two stages."""
    x, weight = (to_device(numbers(n, K, dtype="bfloat16"), "sim") for n in (M, N))
    out = to_device(np.full((M, N), np.nan, x.dtype), "sim")
    maps = tensor_map(x, tile.rows), tensor_map(weight, tile.columns)
    how = True if tile is LITTLE else np.asarray(tensor_map(out, 64))
    args = (*map(np.asarray, maps), K, np.asarray(kernel_view(out)), 2, how, *ABSENT)
    shared_bytes = tile.shared_bytes + (0 if tile is LITTLE else staging_bytes(tile))
    simulate(kernel, blocks, 384, args, shared_bytes, **options)
    assert_near(np.asarray(out), np.asarray(x), np.asarray(weight), u=CUT_OFF)


def test_stages_are_used_again_and_again():
    multiply_with(specialised("bfloat16", LITTLE))


@pytest.mark.slow
def test_producer_and_consumers_are_right_in_any_order():
    multiply_with(specialised("bfloat16", LITTLE), K=200, schedule="random", seed=1)


def without(text, instead):
    """Make the little kernel from a file in which a line reads otherwise."""
    return changed(specialised_file, (text, instead))["specialised"]("bfloat16", LITTLE)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        # A stage is freed when its products have begun, not when they have ended.
        ("ptx.wgmma_wait(1)", "pass", RaceError),
        # The producer waits for no place.
        ("while not ptx.mbarrier_test(free, stage, turn & 1 ^ 1):", "if False:", DeadlockError),
        # The consumers look at the other parity: at stages that are not filled yet.
        ("(full, stage, turn & 1)", "(full, stage, turn & 1 ^ 1)", SimulationError),
        # More bytes are announced than come.
        ("(full, stage, BYTES)", "(full, stage, BYTES + 128)", DeadlockError),
        # One warp too few is waited for.
        ("(free, s, WARPS)", "(free, s, WARPS + 1)", DeadlockError),
        # Nobody tells the copy engine of the barriers.
        ("            ptx.fence_async()\n", "", RaceError),
    ],
    ids=["freed early", "no wait for places", "parity", "bytes", "arrivals", "no fence"],
)
def test_a_planted_mistake_is_found(text, instead, error):
    with pytest.raises(error):
        multiply_with(without(text, instead))


def stored_without(text, instead):
    """Make a kernel that stores by the engine, four boxes a tile, of which a line is changed."""
    ending = Ending(changed(stored_file, (text, instead))["storing_by_engine"])
    return specialised("bfloat16", BOXES, ending)


@pytest.mark.parametrize(
    ("text", "instead", "error"),
    [
        ("ptx.fence_async()", "pass", ProxyError),
        ("ptx.bulk_wait(_BEFORE)", "pass", AssertionError),
        ("ptx.bulk_wait(0)\n        else:", "pass\n        else:", AssertionError),
        ("        ptx.bulk_wait(0)\n\n", "        pass\n\n", AssertionError),
        ("    ptx.fence_async()\n    ptx.barrier_sync(number, GROUP_THREADS)\n",
         "    ptx.fence_async()\n", RaceError),
    ],
    ids=["no fence", "room not free", "first room not free", "no end", "no meeting"],
)  # fmt: skip
def test_a_mistake_in_storing_by_the_engine_is_found(text, instead, error):
    shape = {"M": 70, "N": 456, "K": 72, "tile": BOXES}
    multiply_with(specialised("bfloat16", BOXES, BY_ENGINE), **shape)
    with pytest.raises(error):
        multiply_with(stored_without(text, instead), **shape)


# -- On a GPU: large, odd, and again and again ---------------------------------------------------


def random_on_gpu(*shape):
    import cupy

    rng = cupy.random.default_rng(shape[0])
    halves = rng.standard_normal(shape, dtype=cupy.float32).astype(cupy.float16)
    _skip_unless_hopper(halves)
    return halves, cupy.asnumpy(halves)


@pytest.mark.gpu
@pytest.mark.parametrize("K", [8, 4088])
@pytest.mark.parametrize(("M", "N"), [*itertools.product([1, 7, 127, 129, 4095], repeat=2)])
def test_large_and_odd_shapes_on_a_gpu(M, N, K):
    """Sampled rows and columns in float64; whatever is not written would still be NaN."""
    (x, x_host), (weight, weight_host) = random_on_gpu(M, K), random_on_gpu(N, K)
    rows, columns = (np.unique(np.linspace(0, n - 1, 40).astype(int)) for n in (M, N))
    for step in STEPS:
        out = to_device(np.full((M, N), np.nan, np.float16), "cuda")
        y = to_host(gemm_hopper(x, weight, out=out, step=step))
        assert not np.isnan(y).any()
        assert_near(y[np.ix_(rows, columns)], x_host[rows], weight_host[columns], u=CUT_OFF)


@pytest.mark.gpu
@each_step
def test_a_hundred_repeats_are_bit_identical(step):
    import cupy

    x, weight = random_on_gpu(2000, 2048)[0], random_on_gpu(3000, 2048)[0]
    once = gemm_hopper(x, weight, step=step)
    out = cupy.empty_like(once)
    for _ in range(100):
        out.fill(cupy.nan)
        gemm_hopper(x, weight, out=out, step=step)
        assert bool((out == once).all())


# -- What cannot be multiplied so --------------------------------------------------------------


def on_simulator(*shape, dtype="bfloat16"):
    return to_device(np.zeros(shape, dtype), "sim")


def test_wrong_arguments_are_named():
    x, weight = on_simulator(4, 16), on_simulator(5, 16)
    for arguments, options, named in [
        ((x[0], weight), {}, "'x' has 1 axis"),
        ((on_simulator(4, 16, dtype="float32"), weight), {}, "'x' has dtype float32"),
        ((x, on_simulator(5, 8)), {}, "'weight' has shape"),
        ((x, weight), {"out": empty((4, 4), x.dtype, like=x)}, "'out' has shape"),
        ((x, weight), {"step": "fastest"}, "'step' is 'fastest'"),
        ((on_simulator(4, 12), on_simulator(5, 12)), {}, "'x': its rows are 12 elements long"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            gemm_hopper(*arguments, **options)


def test_a_gpu_of_another_capability_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(hopper, "is_architecture", lambda array, capability: False)
    with pytest.raises(DeviceError, match=r"compute capability 9\.0.*gemm_tensorcore"):
        gemm_hopper(on_simulator(4, 16), on_simulator(5, 16))


def test_a_plan_of_what_the_copy_engine_cannot_address_is_one_of_ordinary_units():
    x, weight = numbers(5, 12, dtype="bfloat16"), numbers(6, 12, dtype="bfloat16")
    x, weight = to_device(x, "sim"), to_device(weight, "sim")
    for step in LADDER.steps:
        (launch,) = step.plan(x=x, weight=weight, out=empty((5, 6), x.dtype, like=x))
        assert launch.kernel is gemm_register_tile
