"""The linear layer: whichever kernel multiplies, the operands mean what they mean in the reference.

The kernels' own tests have tight bounds. Here any slip of an operand must show, and nothing else:
a hundred times the rounding of what is stored.
"""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import gemm_hopper_fused, gemm_skinny
from llm_numba.kernels import linear as linear_file
from llm_numba.kernels.linear import linear
from llm_numba.runtime import intercept, listen, to_device, to_host
from llm_numba.runtime.room import Room
from llm_numba.simulator.clusters import cluster_of

H100 = Room(multiprocessors=132, shared_bytes=227 * 1024, has_clusters=True)

ROWS = [0, 1, 9]
each_number_of_rows = pytest.mark.parametrize("M", ROWS)


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


def run(x, weight, bias=None, *, device, **options):
    options = {
        name: to_device(value, device) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    place = None if bias is None else to_device(bias, device)
    return to_host(linear(to_device(x, device), to_device(weight, device), place, **options))


def empty_on_simulator(*shape_and_dtype):
    *shape, dtype = shape_and_dtype
    return to_device(np.zeros(shape, dtype), "sim")


def without_place(options):
    return {name: value for name, value in options.items() if name != "device"}


def expected(x, weight, bias=None, **options):
    def exact(value):
        return value.astype(np.float64) if isinstance(value, np.ndarray) else value

    options = {name: exact(value) for name, value in options.items()}
    return reference.linear(exact(x), exact(weight), exact(bias), **options)


def assert_near(y, truth):
    scale = np.abs(truth).max(initial=1)
    np.testing.assert_allclose(
        y.astype(np.float64), truth, rtol=0, atol=100 * float(ml_dtypes.finfo(y.dtype).eps) * scale
    )


@pytest.mark.parametrize(
    ("M", "dtype"),
    [(0, "float32"), (1, "bfloat16"), (7, "float16"), (9, "bfloat16")],
)
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu", "silu_mul"])
def test_all_operands_at_once(M, activation, dtype, device):
    N, K = 22, 48
    columns = N // 2 if activation == "silu_mul" else N
    options = {"activation": activation, "residual": numbers(M, columns, dtype=dtype)}
    options |= {"norm_weight": numbers(K, dtype=dtype), "eps": 1e-5}
    operands = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype), numbers(N, dtype=dtype)
    y = run(*operands, device=device, **options)
    assert (y.shape, y.dtype) == ((M, columns), np.dtype(dtype))
    assert_near(y, expected(*operands, **options))


@each_number_of_rows
@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_the_result_of_halves_may_be_float32(M, activation, device):
    x, weight = numbers(M, 40, dtype="bfloat16"), numbers(10, 40, dtype="bfloat16")
    y = run(x, weight, activation=activation, out_dtype="float32", device=device)
    assert y.dtype == np.float32
    # To float32's precision: a result that was rounded to bfloat16 in between is far off.
    assert_near(y, expected(x, weight, activation=activation))


@each_number_of_rows
def test_the_result_may_go_where_the_residual_is(M, device):
    x, weight, residual = numbers(M, 40), numbers(10, 40), numbers(M, 10)
    out = to_device(residual, device)
    y = linear(to_device(x, device), to_device(weight, device), residual=out, out=out)
    assert y is out
    assert_near(to_host(y), expected(x, weight, residual=residual))


@pytest.mark.parametrize("activation", [None, "silu_mul"])
@pytest.mark.parametrize("M", [8, 9])
def test_no_rows_of_weights_and_no_columns_are_no_error(M, activation, device):
    options = {"activation": activation, "device": device}
    assert run(numbers(M, 40), numbers(0, 40), **options).shape == (M, 0)
    assert not run(numbers(M, 0), numbers(6, 0), **options).any()


@pytest.mark.parametrize(
    ("M", "dtype", "name"),
    [
        (8, "float32", "gemv_split"),
        (9, "float32", "gemm"),
        (2, "bfloat16", "gemv_split"),
        (3, "bfloat16", "gemv_tensor"),
        (8, "bfloat16", "gemv_tensor"),
        (16, "bfloat16", "gemv_tensor"),
        (17, "bfloat16", "gemm_skinny"),
        (128, "bfloat16", "gemm_skinny"),
        (129, "bfloat16", "gemm_tensorcore"),
        (33, "float32", "gemm_transposed"),
    ],
)
def test_the_number_of_rows_decides_which_kernel_multiplies(M, dtype, name):
    launches = []
    x, weight = numbers(M, 40, dtype=dtype), numbers(10, 40, dtype=dtype)
    with intercept(launches.append):
        linear(to_device(x, "sim"), to_device(weight, "sim"))
    assert launches
    assert all(launch.kernel.py_func.__name__.startswith(name) for launch in launches)


@pytest.mark.parametrize(
    ("M", "N", "K", "capability", "name"),
    [
        (129, 40, 40, "9.0", "gemm_specialised"),
        (17, 40, 40, "9.0", "gemm_skinny_hopper"),
        (129, 40, 40, None, "gemm_tensorcore"),
        (129, 40, 44, "9.0", "gemm_"),
    ],
)
def test_hopper_multiplies_many_rows_by_its_own_kernels(M, N, K, capability, name, monkeypatch):
    """The simulator is no Hopper unless it is asked for; and not all rows can be addressed."""
    monkeypatch.setattr(gemm_hopper_fused, "FEWEST_TILES", 2)
    if capability:
        monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", capability)
    launches = []
    x, weight = numbers(M, K, dtype="bfloat16"), numbers(N, K, dtype="bfloat16")
    with intercept(launches.append):
        linear(to_device(x, "sim"), to_device(weight, "sim"))
    names = {launch.kernel.py_func.__name__ for launch in launches}
    assert all(each.startswith(name) for each in names), names
    assert ("gemm_specialised" in names) == (name == "gemm_specialised")


@pytest.mark.parametrize(
    ("M", "N", "K", "activation", "name", "blocks"),
    [
        (20, 6144, 4096, None, "gemm_skinny_multicast", 2),
        (40, 28672, 4096, "silu_mul", "gemm_skinny_hopper", 1),
        (64, 2048, 4096, None, "gemm_skinny_hopper", 4),
        (100, 28672, 4096, "silu_mul", "gemm_specialised", 1),
        (70, 4096, 14336, None, "gemm_split", 4),
        (200, 4096, 14336, "gelu", "gemm_split", 2),
        (200, 6144, 4096, None, "gemm_specialised", 1),
        (200, 512, 64, None, "gemm_tensorcore", 1),  # too few tiles
        (300, 4096, 14336, None, "gemm_specialised", 1),
    ],
)
def test_on_an_h100_each_number_of_rows_has_its_kernel(
    M, N, K, activation, name, blocks, monkeypatch
):
    """As many multiprocessors as an H100 has; the simulated GPU has two."""
    monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", "9.0")
    for file in (linear_file, gemm_hopper_fused, gemm_skinny):
        monkeypatch.setattr(file, "room_of", lambda array: H100)
    launches = []
    x, weight = (empty_on_simulator(rows, K, "bfloat16") for rows in (M, N))
    with intercept(launches.append):
        linear(x, weight, activation=activation)
    (launch,) = launches
    assert launch.kernel.py_func.__name__.startswith(name)
    assert cluster_of(launch.kernel) == blocks


def test_few_tiles_are_left_to_kernels_of_smaller_ones():
    """8 x 6 tiles of 128 x 128, and of 128 x 64 where a gate takes the other half."""
    for columns, activation in [(640, None), (320, "silu_mul")]:
        assert not gemm_hopper_fused.fills(np.zeros((1024, columns)), activation)
        assert gemm_hopper_fused.fills(np.zeros((1024, columns + 1)), activation)


def test_it_is_told_once_why_a_slower_kernel_multiplies(monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", "9.0")
    monkeypatch.setattr(gemm_hopper_fused, "FEWEST_TILES", 2)
    told = []
    listen(told.append)
    try:
        with intercept(lambda launch: None):
            for _ in range(2):
                for M, K, dtype in [
                    (129, 44, "bfloat16"),
                    (9, 40, "float32"),
                    (129, 0, "float16"),
                ]:
                    linear(empty_on_simulator(M, K, dtype), empty_on_simulator(40, K, dtype))
    finally:
        listen(None)
    packets, halves, warpgroups = told
    assert "bfloat16 and float16 here, not float32" in halves
    assert "Rows of 44 numbers" in packets
    assert "it has no elements" in warpgroups


@pytest.mark.parametrize(
    ("M", "batch_invariant", "apart"),
    [(8, False, False), (9, False, True), (33, False, True), (9, True, False)],
)
def test_up_to_eight_rows_are_normalised_within_the_product(M, batch_invariant, apart):
    launches = []
    x, weight, norm_weight = (numbers(*n, dtype="bfloat16") for n in ((M, 64), (10, 64), (64,)))
    options = {"norm_weight": norm_weight, "eps": 1e-5, "batch_invariant": batch_invariant}
    with intercept(launches.append):
        run(x, weight, device="sim", **options)
    names = [launch.kernel.py_func.__name__ for launch in launches]
    assert any("norm" in name for name in names) == apart, names


@pytest.mark.parametrize(("activation", "dtype"), [("gelu", "bfloat16"), ("silu_mul", "float32")])
def test_a_row_has_the_same_bits_among_any_number_of_rows(activation, dtype, device):
    """Whole packets and many turns along K: each path of the kernel that decodes is used."""
    N, K = 6, 1040
    x, weight, bias = (numbers(*shape, dtype=dtype) for shape in ((11, K), (N, K), (N,)))
    residual = numbers(11, N // 2 if activation == "silu_mul" else N, dtype=dtype)
    options = {"activation": activation, "norm_weight": numbers(K, dtype=dtype), "eps": 1e-5}
    options |= {"batch_invariant": True, "device": device}
    together = run(x, weight, bias, residual=residual, **options)
    assert_near(together, expected(x, weight, bias, residual=residual, **without_place(options)))
    for rows in (slice(1), slice(7, 10), slice(2, 11)):
        alone = run(x[rows], weight, bias, residual=residual[rows], **options)
        np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("M", [2, 20])
def test_wrong_arguments_are_named(M, invariant, device):
    def here(*shape, dtype="float32"):
        return to_device(np.zeros(shape, dtype), device)

    for changes, word in [
        ({"x": here(6)}, "'x' has 1 axis"),
        ({"weight": here(10, 5)}, "'weight' has shape"),
        ({"weight": here(6)}, "'weight' has"),
        ({"weight": here(9, 6), "activation": "silu_mul"}, "'weight' has 9 rows"),
        ({"bias": here(6)}, "'bias' has shape"),
        ({"residual": here(M, 5)}, "'residual' has shape"),
        ({"activation": "relu"}, "'activation' is 'relu'"),
        ({"norm_weight": here(10)}, "weight' has shape"),
        ({"norm_weight": here(6), "eps": -1.0}, "'eps' is -1.0"),
        ({"out_dtype": "float16"}, "'out_dtype' is float16"),
        ({"out_dtype": 5}, "'out_dtype' is 5"),
        ({"out": here(M, 10, dtype="float16")}, "'out' has dtype"),
        ({"out": [1.0]}, "'out' is of type list"),
        ({"residual": [1.0]}, "'residual' is of type list"),
    ]:
        operands = {"x": here(M, 6), "weight": here(10, 6), "batch_invariant": invariant}
        with pytest.raises(KernelArgumentError, match=word):
            linear(**(operands | changes))


@pytest.mark.parametrize("capability", [None, "9.0"])
@pytest.mark.parametrize("M", [8, 20, 300])
def test_wrong_arguments_are_named_before_a_kernel_is_chosen(M, capability, monkeypatch):
    """To choose one is to look at shapes and places, which such arguments may not have."""
    if capability:
        monkeypatch.setenv("LLM_NUMBA_SIM_CAPABILITY", capability)
    x, weight = empty_on_simulator(M, 64, "float16"), empty_on_simulator(64, 64, "float16")
    for changes, word in [
        ({"out": [1.0]}, "'out' is of type list"),
        ({"out": empty_on_simulator(64, "float16")}, "'out' has shape"),
        ({"out": empty_on_simulator(M, 64, "float16"), "out_dtype": "float32"}, "'out' has dtype"),
        ({"residual": "h"}, "'residual' is of type str"),
        ({"activation": ["gelu"]}, "'activation' is"),
    ]:
        with pytest.raises(KernelArgumentError, match=word):
            linear(x, weight, **changes)
