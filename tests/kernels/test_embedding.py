"""Embedding on a device: rows bit for bit, and ids from outside of the table."""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.embedding import (
    LADDER,
    embedding,
    embedding_with_positions,
    plan_vectorised,
    rule,
)
from llm_numba.kernels.packets import CANDIDATES, Config, cut
from llm_numba.runtime import kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

each_step = pytest.mark.parametrize("step", [step.name for step in LADDER.steps])
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)
# N, V, E: rows of one number, of no whole packet, of packets, of more than one chunk.
SHAPES = [(1, 1, 1), (5, 3, 7), (3, 9, 8), (33, 5, 130), (2, 4, 256), (3, 2, 16392)]


def any_bits(shape, dtype, seed=0):
    """Elements of every kind, NaN of every payload among them."""
    data = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def ids_of(count, vocabulary):
    return np.random.default_rng(count).integers(vocabulary, size=count).astype(np.int32)


def bits(array):
    return array.view(f"u{array.dtype.itemsize}")


def run(function, device, *arrays, **options):
    return to_host(function(*(to_device(a, device) for a in arrays), **options))


@each_step
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_arrive_bit_for_bit(shape, dtype, step, device):
    tokens, vocabulary, width = shape
    ids, weight = ids_of(tokens, vocabulary), any_bits((vocabulary, width), dtype)
    y = run(embedding, device, ids, weight, step=step)
    assert y.dtype == weight.dtype
    np.testing.assert_array_equal(bits(y), bits(reference.embedding(ids, weight)))


@each_step
@each_dtype
@pytest.mark.parametrize("width", [7, 64])
def test_an_id_outside_of_the_table_gives_nan_and_reads_nothing(width, dtype, step, device):
    weight = np.ones((5, width), dtype)
    ids = np.array([4, 5, -1, 2**31 - 1, -(2**31), 0], np.int32)
    y = run(embedding, device, ids, weight, step=step).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, True, True, False])
    np.testing.assert_array_equal(y[[0, 5]], 1)


@each_dtype
def test_tables_may_begin_anywhere(dtype, device):
    weight, ids = any_bits((4, 32), dtype), ids_of(6, 4)
    on_device, expected = to_device(ids, device), bits(weight[ids])
    for skipped in (1, 3):
        memory = to_device(np.zeros(weight.size + skipped, dtype), device)
        part = memory[skipped:].reshape(weight.shape)
        part[...] = to_device(weight, device)
        np.testing.assert_array_equal(bits(to_host(embedding(on_device, part))), expected)
        memory = to_device(np.zeros(6 * 32 + skipped, dtype), device)
        out = memory[skipped:].reshape(6, 32)
        assert embedding(on_device, to_device(weight, device), out=out) is out
        np.testing.assert_array_equal(bits(to_host(out)), expected)


@each_dtype
def test_no_configuration_changes_a_bit(dtype, device):
    ids, weight = ids_of(5, 7), any_bits((7, 4104), dtype)
    for config in CANDIDATES:
        out = to_device(np.zeros((5, 4104), dtype), device)
        args = (to_device(a, device) for a in (ids, weight))
        launch_all(plan_vectorised(*args, out, config))
        np.testing.assert_array_equal(bits(to_host(out)), bits(weight[ids]))


@pytest.mark.parametrize("config", CANDIDATES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 70_000])
@pytest.mark.parametrize("packets", [1, 31, 33, 1024, 5000])
def test_blocks_hold_every_packet_of_every_row_once(packets, rows, config):
    (down, chunks), (threads, together) = cut(rows, packets, config)
    assert threads % 32 == 0
    assert threads * together <= config.threads
    assert down * together >= rows > (down - 1) * together
    assert chunks * threads * config.packets >= packets > (chunks - 1) * threads * config.packets


def test_few_packets_are_spread_over_more_threads_than_many():
    assert rule((1, 9, 4096), "bfloat16").packets == 1
    assert rule((16384, 9, 8192), "bfloat16").packets > 1
    assert {rule((1, 9, 4096), "float32"), rule((16384, 9, 8192), "bfloat16")} <= {*CANDIDATES}


@each_step
@pytest.mark.parametrize("shape", [(0, 3, 8), (3, 2, 0)])
def test_no_numbers_are_no_error(shape, step, device):
    tokens, vocabulary, width = shape
    weight = np.zeros((vocabulary, width), np.float32)
    y = run(embedding, device, np.zeros(tokens, np.int32), weight, step=step)
    assert y.shape == (tokens, width)


@each_dtype
def test_the_last_step_reads_a_row_once_16_bytes_at_a_time(dtype):
    itemsize = np.dtype(dtype).itemsize
    width = 2048 // itemsize  # 128 packets, one for each thread
    ids, weight = ids_of(6, 5), np.ones((5, width), dtype)
    args = [to_device(a, "sim") for a in (ids, weight, np.zeros((6, width), dtype))]
    (launch,) = plan_vectorised(*args, Config(128, 1))
    report = simulate(launch.kernel, launch.grid, launch.block, tuple(map(kernel_view, args)))
    # Of each row and warp: an id; 512 bytes in and out.
    assert report.global_requests == 6 * 4 * 3
    assert report.global_sectors == 6 * 4 * (1 + 16 + 16)


def test_no_order_of_the_threads_matters():
    for shape in ((3, 4, 520), (5, 2, 9)):
        for step in LADDER.steps:
            operands = LADDER.operands(shape, np.dtype("bfloat16"), 0)
            want = LADDER.expect(**operands)["out"]
            operands = {k: to_device(v, "sim") for k, v in operands.items()}
            for launch in step.plan(**operands):
                args = tuple(map(kernel_view, launch.args))
                simulate(launch.kernel, launch.grid, launch.block, args, schedule="random", seed=1)
            np.testing.assert_array_equal(to_host(operands["out"]).astype(np.float64), want)


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("packets", [1, 2, 4])
def test_each_configuration_stays_in_registers(packets, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    operands = LADDER.operands((2, 2, 64), np.dtype(dtype), 0)
    operands = {k: to_device(v, "sim") for k, v in operands.items()}
    (launch,) = plan_vectorised(**operands, config=Config(256, packets))
    found = resources(launch, (9, 0))
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0


# -- With positions ------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_of_positions_is_added_and_rounded_once(shape, dtype, device):
    tokens, vocabulary, width = shape
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(vocabulary, width)).astype(dtype)
    position_weight = rng.normal(size=(11, width)).astype(dtype)
    ids, positions = ids_of(tokens, vocabulary), rng.integers(11, size=tokens).astype(np.int32)
    y = run(embedding_with_positions, device, ids, positions, weight, position_weight)
    tables = weight.astype(np.float64), position_weight.astype(np.float64)
    truth = reference.embedding_with_positions(ids, positions, *tables)
    # The sum of two numbers of 16 bits has at most 24 significant bits unless they are far apart,
    # where float32 rounds once more, by half a unit of its own.
    half_unit = float(ml_dtypes.finfo(dtype).eps) / 2 + 2.0**-24
    assert y.dtype == weight.dtype
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    assert (np.abs(y.astype(np.float64) - truth) <= half_unit * np.abs(truth) + smallest).all()


@pytest.mark.parametrize("width", [7, 64])
def test_an_id_or_position_outside_of_its_table_gives_nan(width, device):
    weight, position_weight = np.ones((5, width), np.float32), np.ones((3, width), np.float32)
    ids = np.array([4, 5, 0, 0, -1], np.int32)
    positions = np.array([2, 0, 3, -1, 9], np.int32)
    y = run(embedding_with_positions, device, ids, positions, weight, position_weight)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, True, True])
    np.testing.assert_array_equal(y[0], 2)


def test_no_tokens_have_no_positions(device):
    none, table = np.zeros(0, np.int32), np.ones((2, 8), np.float32)
    assert run(embedding_with_positions, device, none, none, table, table).shape == (0, 8)


def test_parts_with_positions_may_begin_anywhere(device):
    ids, positions = ids_of(4, 3), ids_of(4, 2)
    tables = any_bits((3, 16), np.uint8).astype(np.float32), np.ones((2, 16), np.float32)
    out = to_device(np.zeros(65, np.float32), device)[1:].reshape(4, 16)
    run(embedding_with_positions, device, ids, positions, *tables, out=out)
    np.testing.assert_array_equal(to_host(out), tables[0][ids] + 1)


# -- What is refused -----------------------------------------------------------------------------

IDS, W = np.zeros(3, np.int32), np.zeros((4, 8), np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_ids": IDS.astype(np.int64)}, ["'token_ids'", "int64", "int32"]),
        ({"token_ids": IDS[None]}, ["'token_ids'", "2 axes"]),
        ({"weight": W[0]}, ["'weight'", "1 axis"]),
        ({"weight": W.astype(np.int32)}, ["'weight'", "int32"]),
        ({"weight": W[:, ::2]}, ["'weight'", "C-contiguous"]),
        ({"out": W}, ["'out'", "(4, 8)", "(3, 8)"]),
        ({"out": W[:3].astype(np.float16)}, ["'out'", "float16"]),
        ({"step": "fast"}, ["'step'", "naive, vectorised"]),
    ],
)
def test_wrong_arguments_are_named(changes, words, device):
    operands = {"token_ids": IDS, "weight": W} | changes
    if "weight" in changes and not changes["weight"].flags.c_contiguous:
        operands["weight"] = to_device(W, device)[:, ::2]
    operands = {
        k: to_device(v, device) if type(v) is np.ndarray else v for k, v in operands.items()
    }
    with pytest.raises(KernelArgumentError) as refusal:
        embedding(**operands)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": IDS[:2]}, ["'positions'", "(2,)", "(3,)"]),
        ({"position_weight": np.zeros((5, 7), np.float32)}, ["'position_weight'", "(any, 8)"]),
        ({"position_weight": W.astype(np.float16)}, ["'position_weight'", "float16"]),
        ({"out": W}, ["'out'", "(4, 8)", "(3, 8)"]),
    ],
)
def test_wrong_arguments_with_positions_are_named(changes, words, device):
    operands = {"token_ids": IDS, "positions": IDS, "weight": W, "position_weight": W} | changes
    operands = {k: to_device(v, device) for k, v in operands.items()}
    with pytest.raises(KernelArgumentError) as refusal:
        embedding_with_positions(**operands)
    for word in words:
        assert word in str(refusal.value)
