"""Every step of both norms' ladders against the reference in float64.

Bound. Let t = x + r, z = (t - mean) / deviation, and R = max |t| / deviation. A relative error e of
each t moves z by at most e R (2 + |z|): by itself, by the mean, and by the deviation. There is
u_s from rounding t to its storage format where there is a residual, and u for each addition of a
thread and of the ten shuffles. The rest is a few roundings u of the result, and its own rounding
u_s before and after an activation, which stretches errors by at most 1.13 (GELU's slope).
"""

import math

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.layernorm import (
    LADDER,
    RMS_LADDER,
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    rms_norm,
)
from llm_numba.kernels.layernorm_fused import NUMBERS
from llm_numba.kernels.rows import MAX_THREADS, MOST_PACKETS, PACKET
from llm_numba.runtime import intercept, kernel_view, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

HELD = MOST_PACKETS * PACKET  # 2-byte numbers of a row that a thread has registers for
STEPS = [step.name for step in LADDER.steps]
NORMS = ["layer", "rms"]
ACTIVATIONS = {
    None: lambda y: y,
    "gelu": reference.gelu,
    "gelu_tanh": reference.gelu_tanh,
    "silu": reference.silu,
}
each_step = pytest.mark.parametrize("step", STEPS)
each_norm = pytest.mark.parametrize("norm", NORMS)
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)
with_and_without_residual = pytest.mark.parametrize("added", [True, False], ids=["add", "alone"])


def operands(norm, shape, dtype="float32", added=True, offset=0.0):
    """Draw x, perhaps a residual, a weight and perhaps a bias, in the launchers' order."""
    rng = np.random.default_rng(list(shape))
    names = ["x", *["residual"] * added, "weight", *["bias"] * (norm == "layer")]
    drawn = {
        "x": rng.normal(offset, 2, size=shape),
        "residual": rng.normal(offset, 1, size=shape),
        "weight": rng.normal(1, 0.5, size=shape[-1]),
        "bias": rng.normal(size=shape[-1]),
    }
    return {name: drawn[name].astype(dtype) for name in names}


def launcher(norm, arrays):
    functions = {"layer": (layer_norm, add_layer_norm), "rms": (rms_norm, add_rms_norm)}
    return functions[norm]["residual" in arrays]


def run(norm, arrays, eps=1e-5, activation=None, *, device, **options):
    """Return the norm and the sum, or the norm and None, as arrays of the host."""
    on_device = [to_device(each, device) for each in arrays.values()]
    result = launcher(norm, arrays)(*on_device, eps, activation, **options)
    normed, total = result if "residual" in arrays else (result, None)
    return to_host(normed), None if total is None else to_host(total)


def assert_near(result, norm, arrays, step, eps=1e-5, activation=None):
    """Assert that the norm and the sum are the reference's, to the bound above."""
    normed, total = result
    exact = {name: each.astype(np.float64) for name, each in arrays.items()}
    t = exact["x"] + exact.get("residual", 0)
    stored = ml_dtypes.finfo(normed.dtype)
    u, u_s = 2.0**-24, float(stored.eps) / 2
    assert normed.dtype == arrays["x"].dtype
    if total is not None:
        assert total.dtype == normed.dtype
        assert (np.abs(total.astype(np.float64) - t) <= (u + u_s) * np.abs(t)).all()

    centred = t - t.mean(axis=-1, keepdims=True) if norm == "layer" else t
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    z = np.abs(centred) / deviation
    largest = np.abs(t).max(axis=-1, keepdims=True) / deviation
    weight, bias = np.abs(exact["weight"]), np.abs(exact.get("bias", 0))
    y = centred / deviation * exact["weight"] + exact.get("bias", 0)
    additions = t.shape[-1] if step == "naive" else t.shape[-1] / 32 + 10
    moved = (additions + 4) * u + (u_s + u if "residual" in arrays else 0)
    bound = weight * largest * (2 + z) * moved + 8 * u * (weight * z + bias)
    truth = ACTIVATIONS[activation](y)
    if activation is not None:
        bound = 1.13 * (bound + (u_s + 8 * u) * np.abs(y))
    bound += u_s * np.abs(truth) + float(stored.smallest_subnormal)
    error = np.abs(normed.astype(np.float64) - truth)
    assert (error <= bound).all(), (error / bound).max()


# -- What they compute --------------------------------------------------------------------------


@each_step
@each_dtype
@each_norm
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (3, 8),
        (5, 31),
        (2, 33),
        (130, 7),
        (9, 64),
        (2, 257),
        (3, 1032),
        (2, 2048),
        (1, 4099),
    ],
)
def test_each_step_adds_normalises_and_activates(shape, norm, dtype, step, device):
    arrays = operands(norm, shape, dtype)
    activation = "gelu" if norm == "layer" else "silu"
    result = run(norm, arrays, activation=activation, device=device, step=step)
    assert_near(result, norm, arrays, step, activation=activation)


@each_step
@each_norm
@with_and_without_residual
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("length", [96, 97, 512])  # 512: each thread has all its packets
def test_residual_and_activation_may_be_missing(length, activation, added, norm, step, device):
    arrays = operands(norm, (3, length), added=added)
    result = run(norm, arrays, activation=activation, device=device, step=step)
    assert_near(result, norm, arrays, step, activation=activation)


@each_step
@each_norm
@each_dtype
def test_a_fused_kernel_gives_what_two_kernels_give(dtype, norm, step, device):
    arrays = operands(norm, (3, 264), dtype)
    normed, total = run(norm, arrays, device=device, step=step)
    total_by_numpy = (arrays["x"].astype("f4") + arrays["residual"].astype("f4")).astype(dtype)
    np.testing.assert_array_equal(total, total_by_numpy)
    alone = {"x": total} | {name: arrays[name] for name in arrays if name in ("weight", "bias")}
    if step in ("naive", "warp"):  # the others have another order without residual
        np.testing.assert_array_equal(normed, run(norm, alone, device=device, step=step)[0])
    assert_near((normed, None), norm, alone, step)


@each_step
def test_layer_norm_keeps_its_digits_far_from_zero(step, device):
    arrays = operands("layer", (1, 1024), added=False, offset=1e4)
    truth = reference.layer_norm(**{k: v.astype(float) for k, v in arrays.items()}, eps=1e-5)
    two_passes = run("layer", arrays, device=device, step=step)[0]
    # The mean is off by the roundings of a sum of 10^7: by 2^-1 at worst in one thread after a
    # thousand additions, each of random sign.
    assert np.abs(two_passes - truth).max() < (0.05 if step == "naive" else 3e-3)

    x = arrays["x"]
    mean, mean_of_squares = x.mean(), np.square(x).mean()
    with np.errstate(invalid="ignore"):
        one_pass = (x - mean) / np.sqrt(mean_of_squares - mean * mean + np.float32(1e-5))
    one_pass = one_pass * arrays["weight"] + arrays["bias"]
    assert not np.abs(one_pass - truth).max() < 0.3


@each_step
@each_norm
@with_and_without_residual
def test_eps_keeps_rows_without_spread_finite(added, norm, step, device):
    arrays = operands(norm, (2, 40), added=added)
    arrays["x"][:] = 0
    if added:
        arrays["residual"][:] = 0
    normed, _ = run(norm, arrays, eps=1e-6, device=device, step=step)
    np.testing.assert_array_equal(normed, [arrays.get("bias", np.zeros(40))] * 2)


@each_step
@each_norm
def test_eps_is_added_under_the_root(norm, step, device):
    # Mean 0, mean square 1: with eps 3 the root is of 4.
    x = np.tile(np.float32([-1, 1]), (2, 16))
    arrays = {"x": x, "weight": np.ones(32, "f4"), "bias": np.zeros(32, "f4")}
    if norm == "rms":
        del arrays["bias"]
    np.testing.assert_array_equal(run(norm, arrays, 3.0, device=device, step=step)[0], x / 2)


@each_step
@each_norm
@pytest.mark.parametrize("culprit", ["x", "residual"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row(value, culprit, norm, step, device):
    arrays = operands(norm, (4, 72))
    arrays[culprit][1, 50] = value
    with np.errstate(invalid="ignore"):
        truth = getattr(reference, f"add_{norm}_norm")(*arrays.values(), 1e-5)[0]
    normed, total = run(norm, arrays, device=device, step=step)
    np.testing.assert_array_equal(np.isnan(normed), np.isnan(truth))
    np.testing.assert_array_equal(total, arrays["x"] + arrays["residual"])
    clean = [0, 2, 3]
    rest = {k: v[clean] if v.ndim > 1 else v for k, v in arrays.items()}
    assert_near((normed[clean], total[clean]), norm, rest, step)


# -- What they run on ---------------------------------------------------------------------------


@each_norm
@pytest.mark.parametrize("step", ["residual", "activation"])
@pytest.mark.parametrize("excess", [-1, 0, 1, 1000])
def test_rows_about_as_long_as_the_registers_hold(excess, step, norm, device):
    arrays = operands(norm, (1, NUMBERS * MAX_THREADS + excess), "bfloat16", offset=5.0)
    result = run(norm, arrays, activation="silu", device=device, step=step)
    assert_near(result, norm, arrays, step, activation="silu")


@each_norm
@pytest.mark.parametrize(("dtype", "fit"), [("float32", HELD // 2), ("float16", HELD)])
@pytest.mark.parametrize("excess", [-8, 0, 8])
def test_rows_about_as_long_as_the_packets_hold(excess, dtype, fit, norm, device):
    arrays = operands(norm, (1, fit * MAX_THREADS + excess), dtype, offset=5.0)
    assert_near(run(norm, arrays, device=device), norm, arrays, "vectorised")


@each_norm
@each_dtype
def test_arrays_may_begin_anywhere(dtype, norm, device):
    arrays = operands(norm, (3, 40), dtype)
    for moved in [*arrays, "out", "total"]:
        on_device = {name: to_device(each, device) for name, each in arrays.items()}
        on_device |= {
            name: to_device(np.zeros((3, 40), dtype), device) for name in ("out", "total")
        }
        shape = on_device[moved].shape
        whole = to_device(np.zeros(math.prod(shape) + 2, dtype), device)
        part = whole[1:-1].reshape(shape)
        part[...] = on_device[moved]
        on_device[moved] = part
        normed, total = launcher(norm, arrays)(**on_device, eps=1e-5)
        assert_near((to_host(normed), to_host(total)), norm, arrays, "vectorised")
        assert not to_host(whole)[[0, -1]].any()


@each_step
@each_norm
@pytest.mark.parametrize("length", [64, 65, 560])  # 70 packets, of 64 threads some have one
def test_results_may_replace_operands(length, norm, step, device):
    arrays = operands(norm, (5, length), "bfloat16")
    expected = run(norm, arrays, activation="silu", device=device, step=step)
    on_device = {name: to_device(each, device) for name, each in arrays.items()}
    normed, total = launcher(norm, arrays)(
        **on_device,
        eps=1e-5,
        activation="silu",
        out=on_device["x"],
        total=on_device["residual"],
        step=step,
    )
    assert normed is on_device["x"]
    assert total is on_device["residual"]
    np.testing.assert_array_equal(to_host(normed), expected[0])
    np.testing.assert_array_equal(to_host(total), expected[1])


@each_step
@each_norm
@with_and_without_residual
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4, 3)])
def test_no_numbers_are_no_error(shape, added, norm, step, device):
    arrays = operands(norm, shape, added=added)
    normed, total = run(norm, arrays, activation="gelu", device=device, step=step)
    assert normed.shape == shape
    assert total is None or total.shape == shape


@each_step
@each_norm
@with_and_without_residual
def test_any_number_of_leading_axes_is_rows(added, norm, step, device):
    arrays = operands(norm, (2, 3, 5, 24), added=added)
    whole = run(norm, arrays, device=device, step=step)
    flat = {k: v.reshape(30, 24) if v.ndim > 1 else v for k, v in arrays.items()}
    one = {k: v[0, 0, 0] if v.ndim > 1 else v for k, v in arrays.items()}
    for few, many in zip(run(norm, flat, device=device, step=step), whole, strict=True):
        assert few is None or np.array_equal(few.reshape(many.shape), many)
    for few, many in zip(run(norm, one, device=device, step=step), whole, strict=True):
        assert few is None or np.array_equal(few, many[0, 0, 0])


# -- What they cost -----------------------------------------------------------------------------


def reports(norm, step, shape, dtype, **options):
    """Simulate a step with residual and activation; return the reports of its kernels."""
    arrays = operands(norm, shape, dtype)
    launches = []
    with intercept(launches.append):
        on_device = [to_device(each, "sim") for each in arrays.values()]
        result = launcher(norm, arrays)(*on_device, 1e-5, "gelu", step=step)
    found = []
    for launch in launches:
        args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
        found.append(simulate(launch.kernel, launch.grid, launch.block, args, **options))
    assert_near(tuple(map(to_host, result)), norm, arrays, step, activation="gelu")
    return found


@each_dtype
@each_norm
def test_each_step_moves_what_the_docstring_says(norm, dtype):
    rows, length = 32, 512
    row = length * np.dtype(dtype).itemsize // 32  # sectors
    affine = 2 if norm == "layer" else 1  # weight and bias
    passes = 3 if norm == "layer" else 2
    moved = {
        step: sum(r.global_sectors for r in reports(norm, step, (rows, length), dtype))
        for step in STEPS
    }
    # The 32 threads of the naive norm touch 32 sectors with each request, and one of the weight.
    assert moved["naive"] == 5 * rows * row + length * (32 * (passes + 1) + affine)
    assert moved["warp"] == rows * row * (5 + passes + 1 + affine)
    assert moved["residual"] == rows * row * (6 + affine)
    assert moved["activation"] == rows * row * (4 + affine)
    assert moved["vectorised"] == rows * row * (4 + affine)
    ladder = LADDER if norm == "layer" else RMS_LADDER
    fewest = ladder.fewest_bytes((rows, length), np.dtype(dtype).itemsize)
    assert 32 * row * (4 * rows + affine) == fewest


@each_norm
def test_the_last_step_loads_and_stores_16_bytes(norm):
    (report,) = reports(norm, "vectorised", (4, 1024), "bfloat16")
    # Each row: x, residual, weight (and bias), sum and result, 4 requests of 512 bytes each.
    assert report.global_requests == 4 * 4 * (6 if norm == "layer" else 5)


@each_step
@each_norm
def test_no_order_of_the_threads_matters(norm, step):
    # Several numbers a thread; in the fused steps several warps a row, too.
    shape = (3, 5) if step == "naive" else (2, 520)
    for seed in range(2):
        reports(norm, step, shape, "float32", schedule="random", seed=seed)


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS)
@with_and_without_residual
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_no_activation_spills(capability, added, activation, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    arrays = operands("layer", (2, 1024), dtype, added)
    launches = []
    with intercept(launches.append):
        on_device = [to_device(each, "sim") for each in arrays.values()]
        launcher("layer", arrays)(*on_device, 1e-5, activation)
    (launch,) = launches
    assert launch.kernel.py_func.__name__ == ("norm_added" if added else "norm_vectorised")
    found = resources(launch, capability)
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
    assert not found.float64


# -- What they refuse ---------------------------------------------------------------------------

GOOD = operands("layer", (2, 3, 8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": np.zeros((2, 3, 8), np.int32)}, ["'x'", "int32", "bfloat16"]),
        ({"x": np.zeros((1,) * 5, np.float32)}, ["'x'", "5 axes"]),
        ({"x": np.zeros((8, 3, 2), np.float32).T}, ["'x'", "C-contiguous"]),
        ({"residual": np.zeros((3, 8), np.float32)}, ["'residual'", "(3, 8)", "(2, 3, 8)"]),
        ({"residual": None}, ["'residual'", "NoneType"]),
        ({"weight": np.zeros(7, np.float32)}, ["'weight'", "(7,)", "(8,)"]),
        ({"weight": np.zeros(8, np.float16)}, ["'weight'", "float16", "float32"]),
        ({"bias": None}, ["'bias'", "NoneType"]),
        ({"bias": np.zeros((1, 8), np.float32)}, ["'bias'", "(1, 8)", "(8,)"]),
        ({"eps": -1e-5}, ["'eps'", "-1e-05", "at least 0"]),
        ({"eps": math.inf}, ["'eps'", "inf", "finite"]),
        ({"activation": "relu"}, ["'activation'", "'relu'", "gelu, gelu_tanh, silu"]),
        ({"out": np.zeros((2, 3, 8), np.float16)}, ["'out'", "float16", "float32"]),
        ({"total": np.zeros((6, 8), np.float32)}, ["'total'", "(6, 8)", "(2, 3, 8)"]),
        ({"step": "fastest"}, ["'step'", "'fastest'", "naive, warp, residual"]),
    ],
)
@each_norm
def test_wrong_arguments_are_named_with_what_is_needed(norm, arguments, words, device):
    options = GOOD | {"eps": 1e-5} | arguments
    if norm == "rms":
        if "bias" in arguments:
            return
        del options["bias"]
    for name, value in options.items():
        if isinstance(value, np.ndarray):
            options[name] = to_device(value, device)
    function = add_layer_norm if norm == "layer" else add_rms_norm
    with pytest.raises(KernelArgumentError) as refusal:
        function(**options)
    for word in words:
        assert word in str(refusal.value)


@each_norm
@with_and_without_residual
def test_arrays_of_the_host_are_refused(added, norm, device):
    arrays = operands(norm, (2, 8), added=added)
    for name in arrays:
        on_device = {other: to_device(each, device) for other, each in arrays.items()}
        on_device[name] = arrays[name]
        with pytest.raises(KernelArgumentError, match=f"'{name}' is a NumPy array in the host"):
            launcher(norm, arrays)(**on_device, eps=1e-5)


@each_norm
def test_the_ladders_own_operands_agree_with_their_expectation(norm):
    ladder = LADDER if norm == "layer" else RMS_LADDER
    drawn = ladder.operands(ladder.example, np.dtype("float16"), 3)
    assert np.isnan(drawn["out"]).all()
    assert np.isnan(drawn["total"]).all()
    expected = ladder.expect(**drawn)
    arrays = {k: drawn[k].astype(float) for k in ("x", "residual", "weight", "bias") if k in drawn}
    function = getattr(reference, f"add_{norm}_norm")
    truth = function(**arrays, eps=drawn["eps"], activation=drawn["activation"])
    np.testing.assert_array_equal(expected["out"], truth[0])
    np.testing.assert_array_equal(expected["total"], truth[1])
