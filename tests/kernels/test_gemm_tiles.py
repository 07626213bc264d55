"""The steps of the GEMM ladder that move packets: their cuts, their parts of K, and what they cost.

Bounds are those of test_gemm.py: K u times the magnitudes.
"""

import inspect

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.gemm import LADDER, TUNABLE, gemm
from llm_numba.kernels.gemm_config import Config, candidates, rule, unsplit
from llm_numba.kernels.gemm_half_sum import gemm_half_sum
from llm_numba.kernels.gemm_plans import in_packets, plan_pipelined, shared_bytes
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.kernels.gemm_split_k import gemm_add_parts
from llm_numba.kernels.gemm_transposed import storing_rows
from llm_numba.runtime import empty, kernel_view, launch, launch_all, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.simulator import simulate

U = 2.0**-24
SPECK = Config(8, 8, 8, 8, 4, 1)
SHAPES = [
    (4096, 4096, 4096), (512, 4096, 4096), (64, 4096, 4096), (16, 4096, 14336), (9, 64, 64),
    (3, 4, 5), (200, 30, 4096), (33, 31, 16), (1, 4096, 4096), (128, 128, 0), (0, 5, 8),
]  # fmt: skip


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


def run(config, x, weight, bias=None, *, activation=None, residual=None, transposed=True):
    """Run one cut in the simulator, and the sum of its parts."""
    out = np.full((len(x), len(weight) // (2 if activation == "silu_mul" else 1)), np.nan, x.dtype)
    given = [None if each is None else to_device(each, "sim") for each in (bias, residual)]
    on_device = [to_device(each, "sim") for each in (x, weight, out)]
    options = {"bias": given[0], "activation": activation, "residual": given[1]}
    launch_all(plan_pipelined(config, *on_device, transposed=transposed, **options))
    return np.asarray(on_device[2])


# -- Parts of K ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "silu", "silu_mul"])
@pytest.mark.parametrize("splits", [2, 3, 5])  # of three slabs of 16
def test_parts_of_k_add_up_and_the_epilogue_follows(splits, activation):
    x, weight, bias = numbers(5, 36), numbers(14, 36), numbers(14)
    residual = numbers(5, 7 if activation == "silu_mul" else 14)
    options = {"activation": activation, "residual": residual}
    y = run(SPECK._replace(splits=splits), x, weight, bias, **options)
    exact = (each.astype(float) for each in (x, weight, bias))
    truth = reference.linear(*exact, activation=activation, residual=residual.astype(float))
    magnitudes = np.abs(x) @ np.abs(weight).T + np.abs(bias)
    # SiLU has slopes up to 1.1; a gate's product errs by the errors of both, times the other.
    bound = 1.1 * (36 + splits + 10) * U * (1 + magnitudes)
    if activation == "silu_mul":
        bound = 2 * bound[:, :7] * (1 + magnitudes[:, 7:])
    assert (np.abs(y - truth) <= bound + U * np.abs(truth)).all()


def test_an_output_has_the_same_bits_in_every_cut_that_leaves_k_whole():
    x, weight = numbers(20, 28), numbers(20, 28)
    once = run(SPECK, x, weight)
    for transposed in (True, False):
        other = run(Config(32, 32, 32, 32, 2, 1), x, weight, transposed=transposed)
        np.testing.assert_array_equal(other, once)
    # So a row's bits do not depend on the rows beside it.
    np.testing.assert_array_equal(run(SPECK, x[3:9], weight), once[3:9])


def test_a_long_sum_of_few_outputs_is_split():
    x, weight = numbers(2, 2048), numbers(3, 2048)
    operands = {"x": x, "weight": weight, "out": np.empty((2, 3), np.float32)}
    operands = {name: to_device(value, "sim") for name, value in operands.items()}
    first, second = LADDER.step("split_k").plan(**operands)
    assert first.grid == (1, 1, 8)
    assert second.kernel is gemm_add_parts


# -- Cuts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LADDER.dtypes)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_cut_can_be_launched_and_the_rule_chooses_one_of_them(shape, dtype):
    cuts = candidates(shape, dtype)
    assert rule(shape, dtype) in cuts
    assert len(cuts) <= 15
    for config in (*cuts, unsplit(*shape[:2], dtype)):
        assert config.is_whole
        assert config.threads <= 1024
        assert config.splits == 1 or shape[2] // config.splits >= 256
        limit = min(each.block_shared_bytes for each in LIMITS.values())
        assert shared_bytes(dtype, config) <= limit


def test_a_large_product_takes_large_tiles_and_a_short_prompt_small_ones():
    assert rule((4096, 4096, 4096), "float32")[:2] == (256, 128)
    assert rule((16, 4096, 4096), "float32").rows == 16
    few = rule((64, 4096, 4096), "bfloat16")
    assert few.blocks_for(64, 4096) * few.splits >= 132
    assert TUNABLE.name == "gemm"


@pytest.mark.parametrize("what", ["x", "weight", "K"])
def test_what_has_no_whole_packets_goes_to_the_register_tile(what):
    K = 10 if what == "K" else 12
    memory = to_device(np.zeros(3 * K + 1, np.float32), "sim")
    x, weight = (to_device(numbers(3, K), "sim") for _ in range(2))
    x = memory[1:].reshape(3, K) if what == "x" else x
    weight = memory[1:].reshape(3, K) if what == "weight" else weight
    assert not in_packets(x, weight)
    for step in LADDER.steps[5:]:
        (plan,) = step.plan(x=x, weight=weight, out=empty((3, 3), "float32", like=x))
        assert plan.kernel is gemm_register_tile


def test_an_odd_number_of_rows_has_no_gates():
    x, weight = (to_device(numbers(*shape), "sim") for shape in [(4, 6), (5, 6)])
    with pytest.raises(KernelArgumentError, match="'weight' has 5 rows"):
        gemm(x, weight, activation="silu_mul")


# -- What they cost, counted by hand ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "wavefronts"), [("vectorised", 6), ("double_buffered", 6), ("warp_tile", 3)]
)
def test_wavefronts_and_sectors_for_1024_multiply_adds_are_those_of_the_table(step, wavefronts):
    M, N, K = 128, 128, 32
    operands = LADDER.operands((M, N, K), np.dtype(np.float32), 0)
    (plan,) = LADDER.step(step).plan(**operands)
    lines = simulate(*plan).lines
    quads = [each for each in lines if each.worst_shared and each.worst_shared.kind == "load"]
    quads = [each for each in quads if each.worst_shared.size == 16]
    assert sum(each.shared_wavefronts for each in quads) * 1024 == M * N * K * wavefronts
    assert {each.max_bank_ways for each in quads} == {1}
    loads = [each for each in lines if each.worst_global and each.worst_global.kind == "load"]
    assert sum(each.global_sectors for each in loads) * 1024 == M * N * K * 2


def _view(value):
    return kernel_view(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(("dtype", "packets"), [("float32", 2), ("bfloat16", 1)])
def test_transposed_tiles_meet_no_bank_twice_and_store_whole_sectors(dtype, packets):
    config, K = Config(32, 32, 32, 32, packets, 1), 16
    x, weight, out = LADDER.operands((32, 32, K), np.dtype(dtype), 0).values()
    (plan,) = plan_pipelined(config, x, weight, out)
    plan = plan._replace(args=tuple(_view(each) for each in plan.args))
    lines = simulate(*plan).lines
    # The rows of finished sums that pass through are not part of the loop.
    source, first = inspect.getsourcelines(storing_rows)
    tiles = [each for each in lines if each.worst_shared]
    tiles = [each for each in tiles if each.line not in range(first, first + len(source))]
    assert {each.worst_shared.kind for each in tiles} == {"load", "store"}
    assert {each.max_bank_ways for each in tiles} == {1}
    numbers_of_one_k = [each for each in tiles if each.worst_shared.size == 16]
    # Of each k of the slabs, and of one slab more that nobody multiplies: 4 rows and 8 columns.
    assert sum(each.shared_requests for each in numbers_of_one_k) == (K + 1) * 3
    (store,) = [each for each in lines if each.worst_global and each.worst_global.kind == "store"]
    assert store.global_sectors == store.ideal_sectors


@pytest.mark.parametrize(("storage", "packets"), [("float32", 2), ("float16", 1)])
@pytest.mark.parametrize("activation", ["gelu", "silu_mul"])
def test_transposed_tiles_keep_to_the_edges(activation, storage, packets):
    M, N, K = 35, 38, 40
    x, weight, bias = (numbers(*each, dtype=storage) for each in [(M, K), (N, K), (N,)])
    residual = numbers(M, N // 2 if activation == "silu_mul" else N, dtype=storage)
    config = Config(32, 32, 32, 32, packets, 1)
    y = run(config, x, weight, bias, activation=activation, residual=residual)
    exact = (each.astype(float) for each in (x, weight, bias))
    truth = reference.linear(*exact, activation=activation, residual=residual.astype(float))
    magnitudes = np.abs(x).astype(float) @ np.abs(weight).astype(float).T + np.abs(bias)
    # GELU has slopes up to 1.13; a gate's product errs by the errors of both, times the other.
    bound = 1.13 * (K + 10) * U * (1 + magnitudes)
    if activation == "silu_mul":
        bound = 2 * bound[:, : N // 2] * (1 + magnitudes[:, N // 2 :])
    half_eps = float(np.finfo(storage).eps) / 2
    assert (np.abs(y - truth) <= bound + (U + half_eps) * np.abs(truth)).all()


@pytest.mark.slow
def test_no_order_of_threads_breaks_transposed_tiles():
    x, weight, out = LADDER.operands((9, 9, 20), np.dtype(np.float32), 0).values()
    (plan,) = plan_pipelined(Config(32, 32, 32, 32, 2, 1), x, weight, out)
    simulate(*plan, schedule="random")
    assert (np.abs(out - x @ weight.T) <= 21 * U * np.abs(x) @ np.abs(weight).T).all()


# -- What not to do -----------------------------------------------------------------------------


def test_a_sum_in_half_precision_stands_still(device):
    ones, quarters = np.ones((1, 3072), np.float16), np.full((1, 3072), 0.25, np.float16)
    a, w = to_device(ones, device), to_device(quarters, device)
    out = to_device(np.empty((1, 1), np.float16), device)
    launch(gemm_half_sum, (1, 1), (1, 1), (a, w, out))
    assert to_host(out) == 512
    assert to_host(gemm(a, w)) == 768
