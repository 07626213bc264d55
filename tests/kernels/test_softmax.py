"""Every step of the softmax ladder against the reference in float64.

Bound, in units u of float32. The exponent s x - m carries six roundings of numbers no larger than
L = max |s x|, the power 4 u, and so does a change of the maximum: a factor that each thread may
apply as often as it adds. Numerator and denominator have all of this, the denominator the
additions of one thread besides, then five shuffles in a warp and five across warps. What is
stored is rounded once more.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.rows import MAX_THREADS, MOST_PACKETS, PACKET
from llm_numba.kernels.softmax import LADDER, TUNABLE, softmax
from llm_numba.kernels.softmax_clustered import THREADS, blocks_of_row, softmax_clustered
from llm_numba.kernels.softmax_streamed import softmax_streamed
from llm_numba.runtime import intercept, kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, resources, signature_of
from llm_numba.simulator import simulate
from llm_numba.simulator.clusters import cluster_of

STEPS = [step.name for step in LADDER.steps]
each_step = pytest.mark.parametrize("step", STEPS)
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)
# 2-byte numbers of a row in registers; of float32, half as many.
FITS = MAX_THREADS * MOST_PACKETS * PACKET


def run(x, *args, device, **kwargs):
    args = [to_device(each, device) if isinstance(each, np.ndarray) else each for each in args]
    return to_host(softmax(to_device(x, device), *args, **kwargs))


def assert_near(y, x, step, scale=1.0, mask=None):
    """Assert that y is the softmax of x, to the bound above."""
    truth = reference.softmax(x.astype(np.float64), scale, mask)
    x = np.broadcast_to(np.where(True if mask is None else mask, x, 0), x.shape)
    largest = np.abs(scale * x.astype(np.float64)).max(axis=-1, keepdims=True)
    additions = x.shape[-1] if step == "naive" else x.shape[-1] / 32 + 10
    u = np.finfo(np.float32).eps / 2
    stored = ml_dtypes.finfo(y.dtype)
    bound = (2 * (6 * largest + 8) + 5 * additions) * u + float(stored.eps) / 2
    tiny = float(stored.smallest_subnormal)
    assert y.dtype == x.dtype
    error = np.abs(y.astype(np.float64) - truth)
    assert (error <= bound * truth + tiny).all(), (error / (bound * truth + tiny)).max()


def numbers(shape, dtype="float32", size=4.0):
    return np.random.default_rng(list(shape)).normal(scale=size, size=shape).astype(dtype)


# -- What it computes ---------------------------------------------------------------------------


@each_step
@each_dtype
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 31), (5, 32), (2, 33), (130, 7), (3, 127), (2, 257), (1, 4099)]
)
def test_each_step_is_the_reference(shape, dtype, step, device):
    x = numbers(shape, dtype)
    assert_near(run(x, device=device, step=step), x, step)


@each_step
@pytest.mark.parametrize("scale", [0.125, -2.0, 0.3, 0.0])
def test_the_scale_multiplies_first(scale, step, device):
    x = numbers((3, 127))
    assert_near(run(x, scale, device=device, step=step), x, step, scale)


@each_step
@each_dtype
@pytest.mark.parametrize("shape", [(4, 67), (67,), (1, 67), (1, 1, 67), (3, 4, 67), (2, 3, 4, 67)])
def test_a_mask_is_broadcast_over_leading_axes(shape, dtype, step, device):
    x = numbers((2, 3, 4, 67), dtype)
    mask = np.random.default_rng(1).random(shape) < 0.5
    y = run(x, 0.5, mask, device=device, step=step)
    assert_near(y, x, step, 0.5, np.broadcast_to(mask, x.shape))
    assert not y[~np.broadcast_to(mask, x.shape)].any()


@each_step
def test_a_fully_masked_row_gives_zeros_and_its_neighbours_do_not_care(step, device):
    x, mask = numbers((3, 70)), np.ones((3, 70), bool)
    mask[1] = False
    y = run(x, 1.0, mask, device=device, step=step)
    assert not y[1].any()
    np.testing.assert_array_equal(y[[0, 2]], run(x, device=device, step=step)[[0, 2]])


@each_step
@pytest.mark.parametrize("column", [0, 5, 40, 69])
def test_nan_and_infinities_are_the_reference_s(column, step, device):
    x = numbers((6, 70))
    x[1, column], x[2, column], x[3, column] = np.nan, np.inf, -np.inf
    x[4] = -np.inf
    x[5] = np.nan
    with np.errstate(invalid="ignore"):
        truth = reference.softmax(x.astype(np.float64))
    y = run(x, device=device, step=step)
    np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-30)
    assert np.isnan(y).all(axis=1).tolist() == [False, True, True, False, False, True]


@each_step
@pytest.mark.parametrize("scale", [1.0, 0.0, -2.0])
def test_what_is_masked_may_be_anything(scale, step, device):
    x, mask = numbers((2, 70)), np.ones((2, 70), bool)
    hidden = [0, 7, 33, 69]
    mask[:, hidden] = False
    clean = run(x, scale, mask, device=device, step=step)
    assert_near(clean, x, step, scale, mask)
    x[:, hidden] = np.nan, np.inf, -np.inf, 3e38
    np.testing.assert_array_equal(run(x, scale, mask, device=device, step=step), clean)


@each_step
@pytest.mark.parametrize("scale", [1.0, 0.3, -0.7])
def test_rows_sum_to_one_however_large_the_numbers(scale, step, device):
    # Fused with the subtraction, s x would stay exact where the maximum was rounded: off by 10^22.
    for size in (1.0, 1e4, 1e30):
        y = run(numbers((3, 257), size=size), scale, device=device, step=step)
        np.testing.assert_allclose(y.astype(np.float64).sum(axis=-1), 1, rtol=257 * 2.0**-23)


# -- What it runs on ----------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("excess", [-1, 0, 1, 1001])
def test_rows_about_as_long_as_the_registers_hold(excess, dtype, device):
    length = (FITS // 2 if dtype == "float32" else FITS) + excess
    x = numbers((2, length), dtype)
    mask = np.random.default_rng(2).random(length) < 0.9
    y = run(x, 0.5, mask, device=device)
    assert_near(y, x, "vectorised", 0.5, np.broadcast_to(mask, x.shape))


@each_dtype
@pytest.mark.parametrize("shape", [(5, 1029), (3, 2061)])
def test_each_candidate_is_the_reference(shape, dtype, device):
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    candidates = TUNABLE.candidates(shape, dtype)
    assert TUNABLE.rule(shape, dtype) in candidates
    for config in candidates:
        on_device = {
            name: to_device(value, device) if isinstance(value, np.ndarray) else value
            for name, value in operands.items()
        }
        launch_all(TUNABLE.plan(config, **on_device))
        result = to_host(on_device["out"])
        assert_near(result, operands["x"], "vectorised", operands["scale"])


# 67 packets, or as many and edges that lie anywhere.
@pytest.mark.parametrize(
    ("length", "has_mask"),
    [
        (268, False),
        (271, True),
        pytest.param(268, True, marks=pytest.mark.slow),
        pytest.param(271, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("held", "slots", "places"), [(1, 1, 1), (1, 2, 2), (1, 2, 5), (2, 1, 2), (2, 1, 1)]
)
def test_rows_pass_through_a_ring_one_after_the_other(held, slots, places, length, has_mask):
    # A thread has two or three packets of a row, in the ring, in registers, or beyond them.
    x = numbers((4, length), "float32")
    mask = np.random.default_rng(1).random((2 * has_mask, length)) < 0.7
    out = np.zeros_like(x)
    args = (x, mask, np.float32(math.log2(math.e)), out)
    kernel = softmax_streamed(held, slots, places, has_mask, length == 268)
    simulate(kernel, 1, 32, args, 16 * 32 * places, schedule="random", seed=slots)
    assert_near(out, x, "vectorised", mask=np.resize(mask, x.shape) if has_mask else None)


@pytest.mark.parametrize("has_mask", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("length", [268, 271, 3])  # 67 packets, edges anywhere, edges alone
@pytest.mark.parametrize(("blocks", "held"), [(2, 2), (8, 1)])
def test_the_blocks_of_a_cluster_share_a_row(blocks, held, length, has_mask):
    # The last block has a few packets, or none.
    x = numbers((2, length), "float32")
    mask = np.random.default_rng(1).random((2 * has_mask, length)) < 0.7
    out = np.zeros_like(x)
    args = (x, mask, np.float32(math.log2(math.e)), out)
    kernel = softmax_clustered(blocks, held, has_mask, length == 268)
    simulate(kernel, 2 * blocks, 32, args, schedule="random", seed=blocks)
    assert_near(out, x, "vectorised", mask=np.resize(mask, x.shape) if has_mask else None)


@pytest.mark.parametrize(
    ("special", "expected"), [(np.nan, np.nan), (np.inf, np.nan), (-np.inf, 0.0)]
)
@pytest.mark.parametrize("column", [0, 200])
def test_nan_and_infinities_reach_all_blocks_of_a_cluster(column, special, expected):
    x = numbers((2, 268), "float32")
    x[1, column] = special
    out = np.zeros_like(x)
    args = (x, np.zeros((0, 268), bool), np.float32(math.log2(math.e)), out)
    simulate(softmax_clustered(4, 1, False, True), 8, 32, args)
    assert_near(out[:1], x[:1], "vectorised")
    with np.errstate(invalid="ignore"):
        truth = reference.softmax(x[1].astype(np.float64))
    np.testing.assert_allclose(out[1], truth, rtol=1e-5, atol=1e-30)
    np.testing.assert_equal(out[1, column], np.float32(expected))


def test_a_row_has_as_many_blocks_as_hold_it():
    room = THREADS * 8
    counts = [blocks_of_row(packets, 8) for packets in (1, 2 * room, 2 * room + 1, 8 * room)]
    assert counts == [2, 2, 4, 8]
    assert blocks_of_row(8 * room + 1, 8) == 0


@pytest.mark.gpu
@each_step
@each_dtype
@pytest.mark.parametrize("length", [50_257, 131_072, 300_001])
def test_rows_of_a_large_vocabulary(length, dtype, step):
    x = numbers((5, length), dtype)
    assert_near(run(x, device="cuda", step=step), x, step)


@pytest.mark.parametrize("length", range(1, 20))
@each_dtype
def test_rows_begin_anywhere_between_two_packets(length, dtype, device):
    x = numbers((17, length), dtype)
    assert_near(run(x, device=device), x, "vectorised")


@each_dtype
def test_arrays_may_begin_anywhere(dtype, device):
    rows = numbers((7, 33), dtype)
    for skipped in range(1, 9):
        here = slice(skipped, skipped + rows.size)
        whole = to_device(np.full(rows.size + 9, 1 / 3, dtype), device)
        part = whole[here].reshape(rows.shape)
        part[...] = to_device(rows, device)
        assert_near(to_host(softmax(part)), rows, "vectorised")
        softmax(to_device(rows, device), out=part)
        assert_near(to_host(part), rows, "vectorised")
        around = np.delete(to_host(whole), np.r_[here])
        np.testing.assert_array_equal(around, np.full(9, 1 / 3, dtype))


@each_step
def test_the_result_may_replace_the_operand(step, device):
    x = numbers((4, 257), "bfloat16")
    on_device = to_device(x, device)
    assert softmax(on_device, out=on_device, step=step) is on_device
    expected = run(x, device=device, step=step)
    np.testing.assert_array_equal(to_host(on_device).view("u2"), expected.view("u2"))


@each_step
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4, 3)])
def test_no_numbers_are_no_error(shape, step, device):
    assert run(np.zeros(shape, "f4"), device=device, step=step).shape == shape
    mask = np.ones(shape, bool)
    assert run(np.zeros(shape, "f4"), 1.0, mask, device=device, step=step).shape == shape


@each_step
def test_any_number_of_leading_axes_is_rows(step, device):
    x = numbers((2, 3, 5, 37))
    y = run(x, device=device, step=step)
    assert y.shape == x.shape
    for rows in (x.reshape(30, 37), x.reshape(6, 5, 37)):
        again = run(rows, device=device, step=step)
        np.testing.assert_array_equal(again.reshape(x.shape), y)
    first = run(x[0, 0, 0], device=device, step=step)
    assert first.shape == (37,)
    assert_near(first, x[0, 0, 0], step)


# -- What it costs ------------------------------------------------------------------------------


def reports(step, shape, dtype, **options):
    """Simulate a step and return its reports."""
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    launches = []
    with intercept(launches.append):
        x = to_device(operands["x"], "sim")
        out = softmax(x, operands["scale"], step=step)
    found = []
    for launch in launches:
        args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
        found.append(simulate(launch.kernel, launch.grid, launch.block, args, **options))
    assert_near(to_host(out), operands["x"], step, operands["scale"])
    return found


@each_dtype
def test_each_step_moves_what_the_docstring_says(dtype):
    shape = (32, 512)
    row_sectors = shape[1] * np.dtype(dtype).itemsize // 32
    once = shape[0] * row_sectors
    moved = {step: sum(r.global_sectors for r in reports(step, shape, dtype)) for step in STEPS}
    # A request of the naive step touches a sector of each of 32 rows; three reads and a write.
    assert moved["naive"] == 4 * 32 * shape[1]
    assert moved["block"] == 4 * once
    assert moved["online"] == 3 * once
    assert (
        moved["vectorised"]
        == 2 * once
        == LADDER.fewest_bytes(shape, np.dtype(dtype).itemsize) // 32
    )


def test_the_last_step_loads_and_stores_16_bytes():
    (report,) = reports("vectorised", (4, 1024), "bfloat16")
    # Per row: 4 requests of 512 bytes in, 4 out.
    assert report.global_requests == 4 * (4 + 4)


@each_step
def test_no_order_of_the_threads_matters(step):
    # One number a thread for the naive step; several warps, two to four numbers a thread, and an
    # edge for the others.
    shape = (3, 5) if step == "naive" else (2, 529)
    for seed in range(3):
        reports(step, shape, "float32", schedule="random", seed=seed)


@pytest.mark.ptx
@each_dtype
def test_no_compiler_fuses_the_scaling_with_the_subtraction(dtype):
    # What PTX writes as mul.f32 the assembler may still fuse, and does; mul.rn.f32 it may not.
    if problem := compiler_problem():
        pytest.skip(problem)
    launches = {
        launch.kernel: launch
        for step in LADDER.steps
        for length in (64, FITS + 8, 9 * FITS)
        for launch in step.plan(**LADDER.operands((1, length), np.dtype(dtype), 0))
    }
    for launch in launches.values():
        text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0))
        assert "mul.rn.f32" in text


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_kernels_for_short_and_for_long_rows_stay_in_registers(capability, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    kernels = set()
    for length in (FITS // 2, FITS // 2 - 1, FITS + 8, FITS + 9, 9 * FITS, 9 * FITS + 1):
        for mask_rows in (0, 1):
            operands = LADDER.operands((1, length), np.dtype(dtype), 0)
            operands["mask"] = np.ones((mask_rows, length), bool)
            (launch,) = LADDER.steps[-1].plan(**operands)
            if cluster_of(launch.kernel) > 1 and capability < (9, 0):
                continue
            found = resources(launch, capability)
            kernels.add((found.kernel, length < FITS, length > 8 * FITS))
            assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
            assert not found.float64
    clustered = {("softmax_clustered", False, False)} if capability >= (9, 0) else set()
    assert kernels == {
        ("softmax_held", True, False), *clustered, ("softmax_streamed", False, True)
    }  # fmt: skip


# -- What it refuses ----------------------------------------------------------------------------

X = np.zeros((2, 3, 5), np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.zeros((2, 3), np.int32)}, ["'x'", "int32", "bfloat16"]),
        ({"x": np.zeros((1,) * 5, np.float32)}, ["'x'", "5 axes"]),
        ({"x": np.zeros((3, 2), np.float32).T}, ["'x'", "C-contiguous"]),
        ({"scale": math.nan}, ["'scale'", "nan", "finite"]),
        ({"scale": "big"}, ["'scale'", "'big'", "number"]),
        ({"mask": np.ones((3, 5), np.uint8)}, ["'mask'", "uint8", "bool"]),
        ({"mask": np.ones((3, 4), bool)}, ["'mask'", "(3, 4)", "(3, 5)"]),
        ({"mask": np.ones((2, 1, 5), bool)}, ["'mask'", "(2, 1, 5)", "(2, 3, 5)"]),
        ({"mask": np.ones((1, 2, 3, 5), bool)}, ["'mask'", "4 axes"]),
        ({"out": np.zeros((2, 3, 5), np.float16)}, ["'out'", "float16", "float32"]),
        ({"out": np.zeros((2, 5, 3), np.float32)}, ["'out'", "(2, 5, 3)", "(2, 3, 5)"]),
        ({"step": "fastest"}, ["'step'", "'fastest'", "naive, block, online, vectorised"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(arguments, words, device):
    operands = {"x": X} | arguments
    for name, value in operands.items():
        if isinstance(value, np.ndarray):
            operands[name] = to_device(value, device)
    with pytest.raises(KernelArgumentError) as refusal:
        softmax(**operands)
    for word in words:
        assert word in str(refusal.value)


def test_arrays_of_the_host_are_refused(device):
    with pytest.raises(KernelArgumentError, match="'x' is a NumPy array in the host"):
        softmax(X)
    with pytest.raises(KernelArgumentError, match="'mask'"):
        softmax(to_device(X, device), mask=np.ones(5, bool))


def test_the_ladder_s_own_operands_agree_with_its_expectation():
    operands = LADDER.operands(LADDER.example, np.dtype("float32"), 3)
    again = LADDER.operands(LADDER.example, np.dtype("float32"), 3)
    np.testing.assert_array_equal(operands["x"], again["x"])
    assert np.isnan(operands["out"]).all()
    expected = LADDER.expect(**operands)["out"]
    np.testing.assert_array_equal(
        expected, reference.softmax(operands["x"].astype(float), operands["scale"])
    )
