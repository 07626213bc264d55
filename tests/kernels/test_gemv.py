"""Every step of the GEMV ladder against the reference in float64, and what each costs.

The bound on the error is derived in ``gemv_cases``.
"""

import numpy as np
import pytest
from gemv_cases import STEPS, assert_near, numbers, run

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemv import LADDER, MAX_ROWS, gemv
from llm_numba.kernels.gemv_plans import (
    TILES,
    candidates,
    plan_config,
    plan_tile,
    rows_compiled,
    rule,
    warps_of_row,
)
from llm_numba.kernels.gemv_tensor import Tile
from llm_numba.runtime import (
    kernel_view,
    launch_all,
    to_device,
    to_host,
)
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

each_step = pytest.mark.parametrize("step", STEPS)
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)

# -- Every step ---------------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [
        (1, 1, 1, "float32"),
        (1, 33, 264, "bfloat16"),
        (3, 9, 77, "float16"),
        (3, 5, 1032, "float32"),
    ],
)
def test_each_step_is_the_reference(M, N, K, dtype, step, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    y = run(x, weight, device=device, step=step)
    assert (y.shape, y.dtype) == ((M, N), x.dtype)
    assert_near(y, x, weight, step=step)


@each_step
@pytest.mark.parametrize("activation", ["gelu", "silu_mul"])
def test_each_step_takes_all_operands(activation, step, device):
    M, N, K, dtype = 3, 10, 72, "bfloat16"
    columns = N // 2 if activation == "silu_mul" else N
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    bias, residual = numbers(N, dtype=dtype), numbers(M, columns)
    options = {"activation": activation, "residual": residual, "eps": 1e-5}
    options |= {"norm_weight": numbers(K, dtype=dtype)}
    y = run(x, weight, bias, device=device, step=step, out_dtype="float32", **options)
    assert (y.shape, y.dtype) == ((M, columns), np.float32)
    assert_near(y, x, weight, bias, step=step, **options)


@each_step
@pytest.mark.parametrize(("M", "N"), [(0, 5), (5, 0)])
def test_no_rows_or_no_columns_make_an_empty_result(M, N, step, device):
    y = run(numbers(M, 3), numbers(N, 3), device=device, step=step)
    assert y.shape == (M, N)


@each_step
def test_the_sum_of_no_products_is_zero_and_the_epilogue_follows(step, device):
    x, weight, bias, residual = numbers(3, 0), numbers(34, 0), numbers(34), numbers(3, 34)
    for norm_weight in (None, numbers(0)):
        options = {"residual": residual, "norm_weight": norm_weight}
        y = run(x, weight, bias, device=device, step=step, **options)
        np.testing.assert_array_equal(y, bias + residual)


@pytest.mark.parametrize("step", STEPS[2:])
def test_no_order_of_the_threads_matters(step):
    shape = (2, 5, 264)  # in packets, which the ladders' common shape is not
    straight = None
    for seed in range(2):
        operands = LADDER.operands(shape, np.dtype("float16"), 0)
        for launch in LADDER.step(step).plan(**operands):
            args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
            launch = launch._replace(args=args)
            simulate(*launch, explain=False, schedule="random", seed=seed)
        assert_near(operands["out"], operands["x"], operands["weight"], step=step)
        straight = operands["out"] if straight is None else straight
        np.testing.assert_array_equal(operands["out"], straight)


# -- The last step: what the engine runs ----------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("M", "N", "K"), [(1, 3, 4104), (8, 5, 520), (2, 2, 257)])
def test_any_shape(M, N, K, dtype, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device=device), x, weight)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("M", "N", "K"), [(1, 4096, 4096), (4, 1024, 14336), (8, 12288, 4096), (3, 50257, 768)]
)
def test_sizes_of_real_layers(M, N, K, dtype):
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    assert_near(run(x, weight, device="cuda"), x, weight)


@pytest.mark.parametrize("K", [20, 21])
def test_bias_activation_and_residual_follow_in_this_order(K, device):
    x, weight, bias, residual = numbers(3, K), numbers(37, K), numbers(37), numbers(3, 37)
    for activation in ACTIVATIONS:
        options = {"activation": activation, "residual": residual}
        assert_near(run(x, weight, bias, device=device, **options), x, weight, bias, **options)


@pytest.mark.parametrize(
    ("M", "F", "K", "dtype"),
    [(1, 1, 8, "bfloat16"), (2, 17, 264, "float32"), (3, 5, 43, "float32")],
)
def test_a_gate_takes_two_rows_of_weights_to_one_output(M, F, K, dtype, device):
    x, weight = numbers(M, K, dtype=dtype), numbers(2 * F, K, dtype=dtype)
    bias, residual = numbers(2 * F, dtype=dtype), numbers(M, F, dtype=dtype)
    options = {"activation": "silu_mul", "residual": residual}
    assert_near(run(x, weight, bias, device=device, **options), x, weight, bias, **options)


@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [(1, 5, 2056, "bfloat16"), (2, 3, 1028, "float32")],
)
def test_a_norm_comes_first(M, N, K, dtype, device):
    x, weight = 3 * numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    for eps in (0.0, 0.5):
        options = {"norm_weight": numbers(K, dtype=dtype), "eps": eps}
        assert_near(run(x, weight, device=device, **options), x, weight, **options)


@pytest.mark.parametrize(
    ("N", "K", "dtype", "activation"),
    [(6, 528, "bfloat16", "silu_mul"), (5, 53, "float16", None)],
)
@pytest.mark.parametrize("step", ["split", "tensor"])
def test_a_row_has_the_same_bits_whatever_the_others(N, K, dtype, activation, step, device):
    x, weight = numbers(MAX_ROWS, K, dtype=dtype), numbers(N, K, dtype=dtype)
    options = {"activation": activation, "norm_weight": numbers(K, dtype=dtype), "eps": 1e-6}
    options |= {"device": device, "out_dtype": "float32", "step": step}
    alone = np.concatenate([run(x[m : m + 1], weight, **options) for m in range(MAX_ROWS)])
    for M in (2, 3, 5, 8):
        np.testing.assert_array_equal(run(x[-M:], weight, **options), alone[-M:])


def test_no_tile_changes_the_order_of_additions():
    M, N, K, dtype = 2, 19, 296, "bfloat16"
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    operands = {"x": x, "weight": weight, "out": np.full((M, N), np.nan, "float32")}
    results = []
    for tile in (TILES[0], Tile(1, 1), Tile(1, 3)):
        on_device = {name: to_device(value, "sim") for name, value in operands.items()}
        launch_all(plan_tile(tile, warps=8, **on_device))
        results.append(to_host(on_device["out"]))
        np.testing.assert_array_equal(results[-1], results[0])
    assert_near(results[0], x, weight)


def test_no_config_changes_the_order_of_additions():
    M, N, K, dtype = 2, 5, 1064, "bfloat16"
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    operands = {"x": x, "weight": weight, "out": np.full((M, N), np.nan, "float32")}
    first, *_, last = candidates((M, 4096, 4096), dtype)
    results = []
    for config in (rule((M, N, K), dtype), first, last):
        on_device = {name: to_device(value, "sim") for name, value in operands.items()}
        launch_all(plan_config(config, **on_device))
        results.append(to_host(on_device["out"]))
        np.testing.assert_array_equal(results[-1], results[0])
    assert_near(results[0], x, weight)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("K", [40, 41])
def test_nan_and_infinity_reach_their_row_and_no_other(K, value, device):
    x, weight = numbers(3, K), np.abs(numbers(33, K))
    x[1, K - 1] = value
    y = run(x, weight, device=device)
    np.testing.assert_array_equal(y[1], np.full(33, value, np.float32))
    assert_near(y[[0, 2]], x[[0, 2]], weight)


def test_the_result_may_go_where_the_residual_is(device):
    x, weight, residual = numbers(3, 72), numbers(33, 72), numbers(3, 33)
    out = to_device(residual, device)
    y = gemv(to_device(x, device), to_device(weight, device), residual=out, out=out)
    assert y is out
    assert_near(to_host(y), x, weight, residual=residual)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_may_begin_anywhere(dtype, device):
    x, weight = numbers(2, 72, dtype=dtype), numbers(5, 72, dtype=dtype)
    for of_x, of_weight in [(0, 1), (1, 0), (8, 8)]:
        places = []
        for array, skipped in ((x, of_x), (weight, of_weight)):
            whole = to_device(np.full(array.size + 9, np.nan, dtype), device)
            part = whole[skipped : skipped + array.size].reshape(array.shape)
            part[...] = to_device(array, device)
            places.append(part)
        assert_near(to_host(gemv(*places)), x, weight)


# -- What it costs --------------------------------------------------------------------------------


def reports(step, shape, dtype):
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    found = []
    for launch in LADDER.step(step).plan(**operands):
        args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
        found.append(simulate(launch.kernel, launch.grid, launch.block, args))
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_step_moves_what_the_docstring_says(dtype):
    N, K = 32, 512
    row = K * np.dtype(dtype).itemsize // 32  # sectors of a row
    stores = N * np.dtype(dtype).itemsize
    (naive,) = reports("naive", (1, N, K), dtype)
    # A lane's number of W lies in a sector of its own; x is one sector for the warp.
    assert naive.global_sectors == (32 + 1) * K + stores // 32
    for step, rows in [("warp", 1), ("vectorised", 1), ("in_flight", 4), ("tensor", 16)]:
        if step == "tensor" and dtype == "float32":
            continue
        (report,) = reports(step, (1, N, K), dtype)
        # x once for each group of rows; a warp stores its outputs in one sector.
        assert report.global_sectors == N * row + N // rows * row + N // rows


def test_packets_are_an_eighth_of_the_requests():
    N, K = 32, 512
    warp, vectorised = (reports(step, (1, N, K), "bfloat16")[0] for step in ("warp", "vectorised"))
    assert warp.global_requests == N * (2 * K // 32 + 1)
    assert vectorised.global_requests == N * (2 * K // 256 + 1)


@pytest.mark.parametrize("step", ["warp", "in_flight"])
def test_weights_are_read_once_for_all_rows(step):
    N, K = 16, 512
    (one,), (four,) = (reports(step, (M, N, K), "bfloat16") for M in (1, 4))
    of_weights, of_x = N * K * 2 // 32, K * 2 // 32
    rows = 4 if step == "in_flight" else 1
    assert four.global_sectors - one.global_sectors == 3 * N // rows * (of_x + 1)
    assert one.global_sectors >= of_weights


@pytest.mark.ptx
@pytest.mark.parametrize("M", [1, 4, 8])
def test_sums_and_packets_stay_in_registers(M):
    if problem := compiler_problem():
        pytest.skip(problem)
    shape = (M, 14336, 4096)
    names = {"x": (M, 64), "weight": (8, 64), "norm_weight": (64,), "out": (M, 4)}
    arrays = {name: to_device(np.zeros(each, "uint16"), "sim") for name, each in names.items()}
    arrays = {name: array.view("bfloat16") for name, array in arrays.items()}
    for config in {rule(shape, "bfloat16"), candidates(shape, "bfloat16")[-1]}:
        (launch,) = plan_config(config, warps=4, activation="silu_mul", **arrays)
        found = resources(launch, (9, 0))
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
        assert not found.float64


# -- The rule -------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("N", [1, 64, 512, 4096, 128256])
@pytest.mark.parametrize("K", [8, 288, 768, 4096, 14336, 131072])
def test_the_rule_is_a_candidate_and_fits_the_row(N, K, dtype):
    warps = warps_of_row(N, K, dtype)
    for M in range(1, MAX_ROWS + 1):
        config = rule((M, N, K), dtype)
        assert config in candidates((M, N, K), dtype)
        assert config.rows * rows_compiled(M) <= 32
        # No lane of a full turn is without a packet, unless the row is shorter than a warp's.
        width = config.packets * warps * 32 * (4 if dtype == "float32" else 8)
        assert width <= K or (config.packets, warps) == (1, 1)


def test_a_matrix_of_few_long_rows_is_shared_by_more_warps():
    assert warps_of_row(64, 131072, "bfloat16") == 16
    assert warps_of_row(4096, 131072, "bfloat16") == 4
    assert rule((1, 64, 131072), "bfloat16").rows == 1


# -- What it refuses ----------------------------------------------------------------------------


def test_wrong_arguments_are_named(device):
    def here(*shape, dtype="float32"):
        return to_device(np.zeros(shape, dtype), device)

    x, weight = here(4, 6), here(10, 6)
    for changes, words in [
        ({"x": here(6)}, ["'x'", "1 axis"]),
        ({"x": here(9, 6)}, ["'x'", "(9, 6)", "8 rows"]),
        ({"x": here(4, 6, dtype="int32")}, ["'x'", "int32"]),
        ({"weight": here(10, 5)}, ["'weight'", "(10, 5)", "(any, 6)"]),
        ({"weight": here(10, 6, dtype="float16")}, ["'weight'", "float16"]),
        ({"bias": here(6)}, ["'bias'", "(6,)", "(10,)"]),
        ({"residual": here(4, 5)}, ["'residual'", "(4, 5)", "(4, 10)"]),
        ({"residual": here(4, 10), "activation": "silu_mul"}, ["'residual'", "(4, 5)"]),
        ({"weight": here(9, 6), "activation": "silu_mul"}, ["'weight'", "9", "even"]),
        ({"activation": "relu"}, ["'activation'", "'relu'", "silu_mul"]),
        ({"norm_weight": here(10)}, ["'norm_weight'", "(10,)", "(6,)"]),
        ({"eps": -1.0}, ["'eps'", "-1.0"]),
        ({"out_dtype": "float16"}, ["'out_dtype'", "float16", "float32"]),
        ({"out": here(10, 4)}, ["'out'", "(10, 4)", "(4, 10)"]),
        ({"out": here(4, 10, dtype="float16")}, ["'out'", "float16"]),
        ({"step": "fastest"}, ["'step'", "'fastest'", "naive"]),
    ]:
        with pytest.raises(KernelArgumentError) as refusal:
            gemv(**({"x": x, "weight": weight} | changes))
        for word in words:
            assert word in str(refusal.value), (changes, word)


def test_the_ladder_s_own_operands_agree_with_its_expectation():
    operands = LADDER.operands(LADDER.example, np.dtype("float32"), 3)
    again = LADDER.operands(LADDER.example, np.dtype("float32"), 3)
    np.testing.assert_array_equal(operands["weight"], again["weight"])
    assert np.isnan(operands["out"]).all()
    expected = LADDER.expect(**operands)["out"]
    np.testing.assert_allclose(
        expected, operands["x"].astype(float) @ operands["weight"].T.astype(float), rtol=1e-12
    )
