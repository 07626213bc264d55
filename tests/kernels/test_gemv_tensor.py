"""The GEMV ladder's step on tensor cores: any rows to 32, what it leaves to others, what it costs.

The bound on the error is derived in ``gemv_cases``.
"""

import numpy as np
import pytest
from gemv_cases import assert_near, numbers, run

from llm_numba.kernels.gemv import MAX_ROWS, gemv, most_rows
from llm_numba.kernels.gemv_plans import TILES, plan_tile, tile_for, warps_of_tile
from llm_numba.kernels.gemv_tensor import GROUPS
from llm_numba.runtime import intercept, overlapping, to_device, to_host
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, resources, signature_of


@pytest.mark.parametrize(
    ("M", "N", "K", "dtype"),
    [(1, 17, 8, "float16"), (8, 16, 4096, "float16"), (13, 40, 72, "bfloat16"),
     (32, 33, 296, "float16")],
)  # fmt: skip
@pytest.mark.parametrize("activation", [None, "silu_mul"])
def test_tensor_cores_take_any_number_of_rows_to_32(M, N, K, dtype, activation, device):
    N += N % 2
    x, weight = numbers(M, K, dtype=dtype), numbers(N, K, dtype=dtype)
    bias = numbers(N, dtype=dtype)
    options = {"activation": activation}
    y = run(x, weight, bias, device=device, out_dtype="float32", **options)
    assert_near(y, x, weight, bias, **options)


def kernels_of(x, weight, **options):
    launches = []
    with intercept(launches.append):
        gemv(x, weight, **options)
    return {launch.kernel.py_func.__name__ for launch in launches}


def test_what_tensor_cores_cannot_multiply_is_left_to_the_step_before(monkeypatch):
    def here(*shape, dtype):
        return to_device(np.ones(shape, dtype), "sim")

    for dtype, K, normed, kernel in [
        ("bfloat16", 64, False, "gemv_tensor"),
        ("float16", 64, False, "gemv_tensor"),
        ("bfloat16", 64, True, "gemv_tensor"),
        ("float16", 64, True, "gemv_split"),
        ("float32", 64, False, "gemv_split"),
        ("bfloat16", 63, False, "gemv_warp"),
    ]:
        x, weight = here(2, K, dtype=dtype), here(6, K, dtype=dtype)
        options = {"norm_weight": here(K, dtype=dtype) if normed else None}
        assert kernels_of(x, weight, **options) == {kernel}
    monkeypatch.setattr("llm_numba.kernels.gemv_plans.has_capability", lambda array, least: False)
    x, weight = here(2, 64, dtype="bfloat16"), here(6, 64, dtype="bfloat16")
    assert kernels_of(x, weight) == {"gemv_split"}
    assert most_rows(x, weight) == MAX_ROWS


def test_a_norm_s_product_may_be_too_large_for_halves(device):
    """x times the norm's weight is 2^19 here, and float16 ends at 2^16."""
    x, weight = np.full((2, 64), 1024, "float16"), np.eye(6, 64).astype("float16")
    y = run(x, weight, norm_weight=np.full(64, 512, "float16"), device=device)
    np.testing.assert_array_equal(y, np.full((2, 6), 512, "float16"))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_beyond_the_end_of_a_row_is_not_multiplied(value):
    """The row's last packets are not whole for all lanes, and behind them lies no number."""
    M, N, K = 2, 3, 264
    places = []
    for rows in (M, N):
        whole = np.full(rows * K + 512, value, "bfloat16")
        whole[: rows * K] = numbers(rows * K, dtype="bfloat16")
        places.append(to_device(whole, "sim")[: rows * K].reshape(rows, K))
    x, weight = places
    assert_near(to_host(gemv(x, weight)), to_host(x), to_host(weight))


@pytest.mark.ptx
@pytest.mark.parametrize("M", [8, 16, 32])
def test_fragments_stay_in_registers(M):
    if problem := compiler_problem():
        pytest.skip(problem)
    names = {"x": (M, 64), "weight": (8, 64), "norm_weight": (64,), "out": (M, 4)}
    arrays = {name: to_device(np.zeros(each, "uint16"), "sim") for name, each in names.items()}
    arrays = {name: array.view("bfloat16") for name, array in arrays.items()}
    warps = 8 if M == 8 else 4
    for early in (False, True):
        with overlapping(early):
            for norm_weight in (None, arrays["norm_weight"]):
                options = arrays | {"norm_weight": norm_weight, "activation": "silu_mul"}
                (launch,) = plan_tile(tile_for(M), warps=warps, **options)
                found = resources(launch, (9, 0))
                assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
                assert not found.float64


@pytest.mark.ptx
def test_weights_are_on_their_way_before_the_wait():
    """Loads of what the kernel calls constant (``.nc``) would be moved behind it, by ptxas."""
    if problem := compiler_problem():
        pytest.skip(problem)
    x, weight, out = (to_device(np.zeros(n, "uint16"), "sim") for n in ((2, 64), (8, 64), (2, 8)))
    arrays = {"x": x, "weight": weight, "out": out}
    arrays = {name: array.view("bfloat16") for name, array in arrays.items()}
    with overlapping():
        (launch,) = plan_tile(TILES[0], **arrays)
    text = compile_to_ptx(launch.kernel, signature_of(launch), (9, 0))
    before, _, behind = text.partition("griddepcontrol.wait")
    assert "ld.global.nc" not in text
    assert before.count("ld.global.L1::no_allocate") == GROUPS * TILES[0].packets
    assert behind.count("ld.global.L1::no_allocate") >= GROUPS * TILES[0].packets


def test_warps_share_a_tile_so_that_blocks_run_at_a_time():
    one, _, four = TILES
    shapes = [(2048, 2048), (4096, 4096), (6144, 4096), (28672, 4096), (16, 64), (16, 8)]
    assert [warps_of_tile(one, *shape) for shape in shapes] == [16, 8, 4, 8, 2, 1]
    assert [warps_of_tile(four, *shape) for shape in shapes] == [8, 4, 4, 4, 2, 1]
