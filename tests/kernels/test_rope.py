"""RoPE on a device, alone and fused, against the reference in float64.

Bounds in units u = 2^-24 of float32. A component is two products and their difference, each rounded
once: at most 2 u of the sum of the two sizes. Behind a norm both carry a sum of D squares, at
most D / 2 + 6 roundings of it, half of that after the root, and the root's, the quotient's and two
products' own four. What is stored is rounded once more. What does not turn moves bit for bit.
"""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.rope import FUSED_LADDER, LADDER, rope, rope_and_write_kv
from llm_numba.kernels.rope_packets import rope_write_vectorised, vectorised
from llm_numba.kernels.rope_plans import CANDIDATES, plan_fused_vectorised, plan_vectorised, rule
from llm_numba.runtime import intercept, kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

U = 2.0**-24
each_step = pytest.mark.parametrize("step", [step.name for step in LADDER.steps])
each_fused_step = pytest.mark.parametrize("step", [step.name for step in FUSED_LADDER.steps])
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)

# N, H, D, d: whole heads, partial RoPE with and without packets, none, odd lengths.
SHAPES = [
    (1, 1, 2, 2),
    (3, 2, 10, 4),
    (5, 9, 19, 18),
    (7, 4, 64, 64),
    (2, 3, 128, 64),
    (33, 1, 96, 24),
    (4, 7, 80, 32),
    (1, 65, 32, 32),
    (2, 5, 48, 0),
]


def numbers(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def tables(turning, num_positions=257):
    frequencies = reference.rope_frequencies(turning, 10000.0, reference.RopeScaling())
    return reference.rope_tables(frequencies, num_positions, np.float32)


def positions_of(tokens):
    return np.random.default_rng(tokens).integers(257, size=tokens).astype(np.int32)


def placed(device, *arrays):
    return [to_device(a, device) if isinstance(a, np.ndarray) else a for a in arrays]


def exact(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def stored_bound(truth, dtype):
    kept = ml_dtypes.finfo(dtype)
    return float(kept.eps) / 2 * np.abs(truth) + float(kept.smallest_subnormal)


def sizes(x, half):
    """Return what the bound of each component is a multiple of: its size and its partner's."""
    size = np.abs(x.astype(np.float64))
    both = size[..., :half] + size[..., half : 2 * half]
    return np.concatenate([both, both, 0 * size[..., 2 * half :]], axis=-1)


def assert_turned(y, x, positions, cos, sin):
    truth = reference.rope(*exact(x), positions, *exact(cos, sin))
    bound = 2 * U * sizes(x, cos.shape[1]) + stored_bound(truth, x.dtype)
    assert y.dtype == x.dtype
    assert (np.abs(y.astype(np.float64) - truth) <= bound).all()
    rest = 2 * cos.shape[1]
    bits = f"u{x.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(y[..., rest:]).view(bits),
        np.ascontiguousarray(x[..., rest:]).view(bits),
    )


# -- RoPE alone ----------------------------------------------------------------------------------


@each_step
@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_step_is_the_reference(shape, dtype, step, device):
    tokens, heads, length, turning = shape
    x, positions, (cos, sin) = (
        numbers((tokens, heads, length), dtype),
        positions_of(tokens),
        tables(turning),
    )
    y = to_host(rope(*placed(device, x, positions, cos, sin), step=step))
    assert_turned(y, x, positions, cos, sin)


@each_dtype
def test_no_configuration_changes_a_bit(dtype, device):
    x, positions, cos, sin = placed(
        device, numbers((5, 11, 64), dtype), positions_of(5), *tables(64)
    )
    results = []
    for config in CANDIDATES:
        out = to_device(np.zeros(x.shape, dtype), device)
        launch_all(plan_vectorised(x, positions, cos, sin, out, config))
        results.append(to_host(out).astype(np.float64))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_few_numbers_are_spread_over_more_threads_than_many():
    assert rule((1, 32, 128), "bfloat16").held < rule((16384, 32, 128), "bfloat16").held
    assert {rule((1, 32, 128), "float32"), rule((16384, 64, 128), "bfloat16")} <= {*CANDIDATES}


@each_dtype
def test_arrays_may_begin_anywhere(dtype, device):
    x, positions, (cos, sin) = numbers((3, 2, 32), dtype), positions_of(3), tables(32)
    args = placed(device, positions, cos, sin)
    for skipped in (1, 3):
        memory = to_device(np.zeros(x.size + 9, dtype), device)
        part = memory[skipped : skipped + x.size].reshape(x.shape)
        part[...] = to_device(x, device)
        assert_turned(to_host(rope(part, *args)), x, positions, cos, sin)
        rope(to_device(x, device), *args, out=part)
        assert_turned(to_host(part), x, positions, cos, sin)
        assert not to_host(memory[:skipped]).any()
        assert not to_host(memory[skipped + x.size :]).any()


def test_the_last_step_may_turn_in_place(device):
    x, positions, (cos, sin) = numbers((5, 6, 64), "bfloat16"), positions_of(5), tables(64)
    on_device = to_device(x, device)
    assert rope(on_device, *placed(device, positions, cos, sin), out=on_device) is on_device
    assert_turned(to_host(on_device), x, positions, cos, sin)


@each_step
@pytest.mark.parametrize("shape", [(0, 2, 8), (3, 0, 8), (2, 3, 0)])
def test_no_numbers_are_no_error(shape, step, device):
    x, positions = np.zeros(shape, np.float32), np.zeros(shape[0], np.int32)
    args = placed(device, x, positions, *tables(min(8, shape[2])))
    assert rope(*args, step=step).shape == shape


@each_dtype
def test_each_step_moves_what_its_idea_says(dtype):
    shape, width = (4, 8, 64), 16 // np.dtype(dtype).itemsize
    sectors = {}
    for step in LADDER.steps:
        operands = LADDER.operands(shape, np.dtype(dtype), 0)
        (launch,) = step.plan(**{k: to_device(v, "sim") for k, v in operands.items()})
        args = tuple(map(kernel_view, launch.args))
        sectors[step.name] = simulate(launch.kernel, launch.grid, launch.block, args).global_sectors
    x = 4 * 8 * 64 // 2 // width  # sectors of x, and as many of the result
    # 32 components a warp: x twice, out once; 4 sectors of each table and 1 of positions.
    assert sectors["naive"] == 3 * x + 4 * 8 * 2 * (2 * 4 + 1)
    # 32 pairs of packets a warp, whole heads: 4 sectors of each table for each quarter that is 16
    # bytes of it, and 1 of positions.
    warps = 4 * 8 * 64 // (2 * width) // 32
    assert sectors["vectorised"] == 2 * x + warps * (2 * 4 * width // 4 + 1)


def test_no_order_of_the_threads_matters():
    for held in (1, 2):
        operands = LADDER.operands((3, 5, 64), np.dtype("bfloat16"), 0)
        config = next(each for each in CANDIDATES if each.held == held)
        (launch,) = plan_vectorised(
            **{k: to_device(v, "sim") for k, v in operands.items()}, config=config
        )
        assert launch.kernel is vectorised(held)
        args = tuple(map(kernel_view, launch.args))
        for seed in range(2):
            simulate(launch.kernel, launch.grid, launch.block, args, schedule="random", seed=seed)


# -- With the norm before it and the KV write behind it ------------------------------------------


def fused_operands(tokens, heads, groups, length, turning, dtype, normed=True):
    """Return the operands of rope_and_write_kv in order, in the host's memory."""
    rng = np.random.default_rng(tokens)
    cos, sin = tables(turning) if turning else (None, None)
    caches = [np.full((3, 16, groups, length), 7, dtype) for _ in range(2)]
    slots = rng.permutation(48)[:tokens].astype(np.int32)
    slots[1::3] = -1
    norms = [numbers(length, dtype, seed) if normed else None for seed in (3, 4)]
    qkv = numbers((tokens, (heads + 2 * groups) * length), dtype, 2)
    return [qkv, positions_of(tokens), cos, sin, *caches, slots, *norms, 1e-5]


def check_fused(operands, device, **options):
    """Run rope_and_write_kv and hold q and both caches to the reference."""
    qkv, positions, cos, sin, k_cache, v_cache, slots, q_norm, k_norm, eps = operands
    on_device = placed(device, *operands)
    q = to_host(rope_and_write_kv(*on_device, **options))
    caches = exact(k_cache, v_cache)
    truth = reference.rope_and_write_kv(
        *exact(qkv), positions, *exact(cos, sin), *caches, slots, *exact(q_norm, k_norm), eps
    )
    (groups, length), dtype = k_cache.shape[2:], qkv.dtype
    half = 0 if cos is None else cos.shape[1]
    heads = qkv.reshape(len(qkv), -1, length)
    roundings = {"q": length / 4 + 9 if q_norm is not None else 2}
    roundings["k"] = length / 4 + 9 if k_norm is not None else 2
    # The norm changes sizes: those of the reference before it turns, which keeps a pair's length.
    largest = {name: pair_sizes(y, half) for name, y in (("q", truth), ("k", caches[0]))}
    if options.get("step") == "apart":  # rounded to the storage format after the norm, too
        roundings = {name: n + float(ml_dtypes.finfo(dtype).eps) / 2 / U for name, n in
                     roundings.items()}  # fmt: skip
    assert q.shape == (len(qkv), heads.shape[1] - 2 * groups, length)
    for found, want, name in ((q, truth, "q"), (to_host(on_device[4]), caches[0], "k")):
        bound = roundings[name] * U * largest[name] + stored_bound(want, dtype)
        assert found.dtype == dtype
        assert (np.abs(found.astype(np.float64) - want) <= bound).all()
    np.testing.assert_array_equal(to_host(on_device[5]).astype(np.float64), caches[1])


def pair_sizes(y, half):
    """Return the most that the sizes of a pair can have added up to before it was turned."""
    first, second = y[..., :half], y[..., half : 2 * half]
    both = np.sqrt(2) * np.hypot(first, second)
    return np.concatenate([both, both, np.abs(y[..., 2 * half :])], axis=-1)


@each_fused_step
@each_dtype
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 2, 2),
        (5, 6, 2, 19, 18),
        (7, 4, 4, 64, 64),
        (3, 8, 2, 96, 96),
        (4, 3, 1, 80, 32),
        (2, 2, 1, 256, 256),
        (16, 2, 1, 32, 32),
        (3, 4, 2, 32, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("normed", [True, False])
def test_in_one_pass_it_is_the_reference(shape, normed, dtype, step, device):
    check_fused(fused_operands(*shape, dtype, normed), device, step=step)


@each_fused_step
@pytest.mark.parametrize("missing", [7, 8])
def test_one_of_the_norms_may_be_missing(missing, step, device):
    operands = fused_operands(5, 4, 2, 64, 64, "float32")
    operands[missing] = None
    check_fused(operands, device, step=step)


@each_dtype
def test_parts_that_begin_anywhere_are_taken(dtype, device):
    operands = fused_operands(3, 2, 1, 32, 32, dtype)
    out = to_device(np.zeros(3 * 2 * 32 + 1, dtype), device)[1:].reshape(3, 2, 32)
    check_fused(operands, device, out=out)


def test_a_token_s_result_does_not_depend_on_the_others(device):
    many = fused_operands(40, 5, 1, 64, 64, "bfloat16")
    whole = to_host(rope_and_write_kv(*placed(device, *many)))
    for n in (0, 17, 39):
        one = [a[n : n + 1] if k in (0, 1, 6) else a for k, a in enumerate(many)]
        alone = to_host(rope_and_write_kv(*placed(device, *one)))
        np.testing.assert_array_equal(alone[0].view("u2"), whole[n].view("u2"))


@each_fused_step
def test_no_tokens_are_no_error(step, device):
    operands = fused_operands(1, 4, 2, 64, 64, "float32")
    none = [a[:0] if k in (0, 1, 6) else a for k, a in enumerate(operands)]
    assert rope_and_write_kv(*placed(device, *none), step=step).shape == (0, 4, 64)


@each_dtype
def test_one_pass_reads_once_and_writes_once(dtype):
    shape = (8, 4, 2, 64)
    operands = FUSED_LADDER.operands(shape, np.dtype(dtype), 0)
    operands["slot_mapping"] = np.arange(8, dtype=np.int32)
    operands = {k: to_device(v, "sim") if np.ndim(v) else v for k, v in operands.items()}
    moved = {}
    for step in FUSED_LADDER.steps:
        moved[step.name] = 0
        for launch in step.plan(**operands):
            args = tuple(kernel_view(a) if np.ndim(a) else a for a in launch.args)
            report = simulate(launch.kernel, launch.grid, launch.block, args)
            moved[step.name] += report.global_sectors
    data = 2 * 8 * (4 + 2 * 2) * 64 * np.dtype(dtype).itemsize // 32
    assert moved["vectorised"] < moved["fused"] < moved["apart"]
    # Besides the data: angles, weights, positions and slots, which the caches answer.
    assert data < moved["vectorised"] < 3 * data


def test_no_order_of_the_threads_shows_in_a_head():
    operands = FUSED_LADDER.operands((3, 3, 1, 64), np.dtype("bfloat16"), 0)
    want = FUSED_LADDER.expect(**operands)["out"]
    results = []
    for seed in range(3):
        on_device = {k: to_device(v, "sim") if np.ndim(v) else v for k, v in operands.items()}
        (launch,) = plan_fused_vectorised(**on_device, threads=128)
        assert launch.kernel is rope_write_vectorised
        args = tuple(kernel_view(a) if np.ndim(a) else a for a in launch.args)
        simulate(launch.kernel, launch.grid, launch.block, args, schedule="random", seed=seed)
        results.append(to_host(on_device["out"]).astype(np.float64))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_allclose(results[0], want, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("heads", [1, 3, 48, 96, 200])
@pytest.mark.parametrize("length", [16, 96, 256])
def test_blocks_are_whole_warps_that_hold_every_head(heads, length):
    operands = FUSED_LADDER.operands((5, heads, 1, length), np.dtype("bfloat16"), 0)
    (launch,) = plan_fused_vectorised(
        **{k: to_device(v, "sim") if np.ndim(v) else v for k, v in operands.items()}
    )
    (tokens, across), (lanes, side_by_side, together) = launch.grid, launch.block
    assert lanes * side_by_side * together % 32 == 0
    assert lanes * side_by_side * together <= 1024
    assert across * side_by_side >= heads + 2
    assert tokens * together >= 5
    assert 16 * lanes >= length > 8 * lanes or lanes == 1


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_kernels_stay_in_registers(capability, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    plans = []
    operands = LADDER.operands((4, 8, 64), np.dtype(dtype), 0)
    operands = {k: to_device(v, "sim") for k, v in operands.items()}
    plans += [plan_vectorised(**operands, config=config) for config in CANDIDATES[:3]]
    operands = FUSED_LADDER.operands((4, 8, 2, 64), np.dtype(dtype), 0)
    operands = {k: to_device(v, "sim") if np.ndim(v) else v for k, v in operands.items()}
    plans.append(plan_fused_vectorised(**operands))
    for (launch,) in plans:
        found = resources(launch, capability)
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
        assert not found.float64


# -- What is refused -----------------------------------------------------------------------------

X, P = np.zeros((3, 2, 8), np.float32), np.zeros(3, np.int32)
C = np.zeros((5, 4), np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": X[0]}, ["'x'", "2 axes"]),
        ({"x": X.astype(np.int32)}, ["'x'", "int32"]),
        ({"positions": P.astype(np.int64)}, ["'positions'", "int64", "int32"]),
        ({"positions": P[:2]}, ["'positions'", "(2,)", "(3,)"]),
        ({"cos": C.astype(np.float16)}, ["'cos'", "float16", "float32"]),
        ({"cos": np.zeros((5, 5), np.float32)}, ["10", "from 0 to 8"]),
        ({"sin": C[:4]}, ["'sin'", "(4, 4)", "(5, 4)"]),
        ({"out": X[:2]}, ["'out'", "(2, 2, 8)", "(3, 2, 8)"]),
        ({"step": "fused"}, ["'step'", "naive, vectorised"]),
    ],
)
def test_wrong_arguments_are_named(changes, words, device):
    operands = {"x": X, "positions": P, "cos": C, "sin": C} | changes
    operands = {k: to_device(v, device) if np.ndim(v) else v for k, v in operands.items()}
    with pytest.raises(KernelArgumentError) as refusal:
        rope(**operands)
    for word in words:
        assert word in str(refusal.value)


NAMES = ("qkv", "positions", "cos", "sin", "k_cache", "v_cache", "slot_mapping", "q_norm",
         "k_norm", "eps")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qkv": np.zeros((5, 63), np.float32)}, ["'qkv'", "(5, 63)", "(any, "]),
        ({"qkv": np.zeros((5, 16), np.float32)}, ["'heads of q' is 0", "from 1"]),
        ({"qkv": np.zeros((5, 2, 32), np.float32)}, ["'qkv'", "3 axes"]),
        ({"cos": None}, ["'cos'", "NoneType"]),
        ({"sin": None}, ["'sin'", "NoneType"]),
        ({"k_cache": np.zeros((3, 16, 8), np.float32)}, ["'k_cache'", "3 axes"]),
        ({"k_cache": np.zeros((3, 16, 1, 8), np.float16)}, ["'k_cache'", "float16"]),
        ({"v_cache": np.zeros((3, 16, 2, 8), np.float32)}, ["'v_cache'", "(3, 16, 2, 8)"]),
        ({"slot_mapping": np.zeros(4, np.int32)}, ["'slot_mapping'", "(4,)", "(5,)"]),
        ({"q_norm": np.zeros(9, np.float32)}, ["'q_norm'", "(9,)", "(8,)"]),
        ({"k_norm": np.zeros(8, np.float16)}, ["'k_norm'", "float16"]),
        ({"eps": -1.0}, ["'eps'", "at least 0"]),
        ({"out": np.zeros((5, 3, 8), np.float32)}, ["'out'", "(5, 3, 8)", "(5, 4, 8)"]),
        ({"step": "naive"}, ["'step'", "apart, fused, vectorised"]),
    ],
)
def test_wrong_arguments_of_the_fused_pass_are_named(changes, words, device):
    operands = dict(zip(NAMES, fused_operands(5, 4, 1, 8, 8, "float32"), strict=True)) | changes
    operands = {k: to_device(v, device) if np.ndim(v) else v for k, v in operands.items()}
    with pytest.raises(KernelArgumentError) as refusal:
        rope_and_write_kv(**operands)
    for word in words:
        assert word in str(refusal.value)


def test_nothing_is_launched_for_nothing():
    launches = []
    with intercept(launches.append):
        rope(*placed("sim", X[:0], P[:0], C, C))
    assert launches == []
