"""Tokens drawn on a device, against the reference's distribution in float64.

Which token a random number falls to depends on rounding where it lies next to the border of two
tokens, and which tokens are kept where a limit is as good as reached. So each test asks whether
the token is one of those that errors of the stated size explain. In units u = 2^-24:

- The exponent z carries four roundings (maximum subtracted, two constants, their product), so that
  a weight 2^z is off by 4 ln(2) |z| u, and by 4 u for the instruction that computes it.
- Weights are counted in units of 2^-40, rounded down.
- A histogram's bin holds its weights to 2^-16 of themselves; top-p compares sums of bins.
"""

import math

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import sampling
from llm_numba.kernels.sampling_draw import ROOM_OF_BLOCK
from llm_numba.kernels.sampling_parts import SHARE, WARPS
from llm_numba.kernels.sampling_refine import ROOM
from llm_numba.runtime import intercept, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources

U = 2.0**-24
DTYPES = ("float32", "float16", "bfloat16")
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
BLOCK = SHARE * WARPS  # logits
LENGTHS = [1, 31, 33, 1000, 4099, SHARE + 8, BLOCK + 3]


def settings(batch, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0):
    """Parameters of a batch, each a number or one a row; and the numbers of its requests."""
    index = np.arange(batch)
    values = [(temperature, "f4"), (top_k, "i4"), (top_p, "f4"), (min_p, "f4")]
    limits = [np.broadcast_to(np.asarray(value, dtype), batch) for value, dtype in values]
    seeds = (index.astype("u8") + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    return *limits, seeds, (index % 3).astype("i4"), (index * 7 + seed).astype("i4")


def run(logits, parameters, device, step="histogram"):
    arrays = (np.ascontiguousarray(each) for each in (logits, *parameters))
    return to_host(sampling.sample_tokens(*(to_device(each, device) for each in arrays), step=step))


def numbers(batch, length, dtype="float32", scale=3.0, seed=0):
    rng = np.random.default_rng([batch, length, seed])
    return rng.normal(scale=scale, size=(batch, length)).astype(dtype)


def explained(logits, temperature, top_k, top_p, min_p, uniform):
    """Return the tokens [V] that a row's random number may fall to, as True."""
    z = (logits - logits.max()) / float(temperature) * math.log2(math.e)
    weights = np.exp2(z)
    error = weights * (4 * math.log(2) * np.where(weights > 0, -z, 0) + 4) * U + 2.0**-40
    order = np.argsort(-weights, kind="stable")
    kept_surely = (weights - error >= min_p)[order]
    kept_maybe = (weights + error >= min_p)[order]
    possible = np.zeros(len(weights), bool)
    for survivors in {np.count_nonzero(kept_surely), np.count_nonzero(kept_maybe)}:
        for last in last_kept(weights[order][:survivors], error[order], int(top_k), float(top_p)):
            kept = weights >= weights[order][last]
            total = weights[kept].sum()
            cumulative = np.cumsum(np.where(kept, weights, 0)) / total
            slack = 2 * error[kept].sum() / total
            begin = np.concatenate([[0.0], cumulative[:-1]])
            possible |= kept & (begin - slack <= uniform) & (uniform < cumulative + slack)
    return possible


def last_kept(weights, error, top_k, top_p):
    """Return which of the ranked tokens may be the last that top-k, then top-p, keep."""
    ranked = weights[: top_k or None] if top_k > 0 else weights
    if top_p >= 1:
        return [len(ranked) - 1]
    through = np.cumsum(ranked)
    before = through - ranked
    slack = 2 * error[: len(ranked)].sum() + 2 * 2.0**-16 * through[-1]
    surely = max(1, np.count_nonzero(before + slack < top_p * through[-1]))
    maybe = max(1, np.count_nonzero(before - slack < top_p * through[-1]))
    # Equals are kept together, so of each group any member stands for all.
    return range(surely - 1, maybe)


def assert_explained(tokens, logits, parameters):
    """Assert that each row's token is one that the bounds above allow."""
    assert tokens.dtype == np.int64
    temperature, top_k, top_p, min_p, *numbers = parameters
    uniform = reference.philox_uniform(*numbers)
    for b, token in enumerate(tokens):
        row = logits[b].astype(np.float64)
        if temperature[b] < 1e-5:
            assert token == row.argmax()
        else:
            limits = (top_k[b], top_p[b], min_p[b])
            assert explained(row, temperature[b], *limits, uniform[b])[token], (b, token)


# -- Greedy -------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("length", LENGTHS)
def test_argmax_is_the_first_of_the_largest(length, dtype, device):
    logits = numbers(5, length, dtype)
    logits[1] = 2
    logits[2, length // 2 :] = 30
    logits[3, -1] = 3e4
    tokens = to_host(sampling.argmax(to_device(logits, device)))
    assert tokens.dtype == np.int64
    assert tokens.tolist() == logits.argmax(axis=-1).tolist()


def test_argmax_of_zeros_is_the_first_and_of_no_numbers_none(device):
    logits = numbers(7, 1000)
    logits[0], logits[0, 500:] = -0.0, 0.0
    logits[1, [40, 700]] = -np.float32(np.nan), np.nan
    logits[2, [3, 900]], logits[2, 500] = np.inf, np.nan
    logits[3] = -np.inf
    logits[4] = np.nan
    logits[5], logits[5, 999] = -np.inf, -3e38
    logits[6, 20] = np.inf
    tokens = to_host(sampling.argmax(to_device(logits, device)))
    assert tokens.tolist() == [0, -1, -1, -1, -1, 999, -1]


@pytest.mark.parametrize("temperature", [0.0, 9e-6])
def test_below_the_coldest_temperature_the_most_likely_token_is_taken(temperature, device):
    logits = numbers(5, 1000).round()
    tokens = run(logits, settings(5, temperature, 7, 0.3, 0.2), device)
    assert tokens.tolist() == logits.argmax(axis=-1).tolist()


# -- Drawn --------------------------------------------------------------------------------------

LIMITS = {
    "none": {},
    "top_k": {"top_k": [1, 2, 17, 5000, 40]},
    "top_p": {"top_p": [0.1, 0.5, 0.9, 0.999, 1e-9]},
    "min_p": {"min_p": [0.001, 0.02, 0.3, 1.0, 1e-6]},
    "all": {"top_k": [3, 50, 400, 0, -1], "top_p": [0.9, 0.7, 0.95, 0.5, 1], "min_p": 0.003},
}


# The search reads a row many times, which takes the simulator seconds where it is long.
STEPS_AND_LENGTHS = [
    pytest.param(step, length, marks=[pytest.mark.slow] * (step == "search" and length > 5000))
    for step in ("search", "histogram")
    for length in LENGTHS
]


@pytest.mark.parametrize(("step", "length"), STEPS_AND_LENGTHS)
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_tokens_are_where_the_reference_s_distribution_has_them(length, limits, step, device):
    temperature = [0.3, 0.8, 1.0, 1.7, 30.0]
    for seed in range(1 if length > 3000 else 3):
        logits = numbers(5, length, seed=seed)
        parameters = settings(5, temperature, **limits, seed=seed)
        assert_explained(run(logits, parameters, device, step), logits, parameters)


@each_dtype
def test_tied_logits_of_two_bytes_or_four(dtype, device):
    logits = numbers(60, 1000).round().astype(dtype)
    rng = np.random.default_rng(5)
    parameters = settings(
        60,
        rng.choice([0.5, 1.0, 2.0], 60),
        rng.choice([0, 3, 100], 60),
        rng.choice([0.3, 0.9, 1], 60),
    )
    assert_explained(run(logits, parameters, device), logits, parameters)


def test_most_draws_are_the_reference_s_to_the_token(device):
    logits = numbers(200, 300)
    rng = np.random.default_rng(6)
    parameters = settings(
        200, rng.uniform(0.3, 2, 200), rng.integers(0, 60, 200), rng.uniform(0.3, 1, 200), 0.01
    )
    exact = [each.astype("f8") if each.dtype == "f4" else each for each in parameters]
    expected = reference.sample_tokens(logits.astype("f8"), *exact)
    assert np.count_nonzero(run(logits, parameters, device) == expected) >= 199


def test_all_tokens_that_are_kept_are_drawn_and_no_others(device):
    row = np.log(np.array([0.02, 0.3, 0.1, 0.25, 0.03, 0.3], "f4"))
    for limits, kept in [
        ({}, {0, 1, 2, 3, 4, 5}),
        ({"top_k": 1}, {1, 5}),  # equals of the last one are kept
        ({"top_k": 3}, {1, 3, 5}),
        ({"top_p": 0.59}, {1, 5}),
        ({"top_p": 0.61}, {1, 3, 5}),
        ({"min_p": 0.3}, {1, 2, 3, 5}),
        ({"top_k": 3, "top_p": 0.7}, {1, 5}),  # 0.6 / 0.85 is above 0.7
        ({"top_k": 3, "top_p": 0.71}, {1, 3, 5}),
    ]:
        tokens = run(np.tile(row, (150, 1)), settings(150, **limits), device)
        assert set(tokens.tolist()) == kept


# -- Awkward rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 33, SHARE + 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_finite_maximum_has_no_token_and_its_neighbours_do_not_care(
    length, temperature, device
):
    logits = numbers(6, length)
    parameters = settings(6, temperature, 5, 0.9, 0.01)
    clean = run(logits, parameters, device)
    logits[0, length // 2], logits[2, -1], logits[3] = np.nan, np.inf, -np.inf
    logits[5, 0] = -np.float32(np.nan)
    tokens = run(logits, parameters, device)
    assert tokens[[0, 2, 3, 5]].tolist() == [-1] * 4
    assert tokens[[1, 4]].tolist() == clean[[1, 4]].tolist()


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_masked_tokens_are_never_drawn(limits, device):
    logits = numbers(5, 1000)
    logits[:, np.random.default_rng(3).random(1000) < 0.7] = -np.inf
    logits[4], logits[4, 321] = -np.inf, -1e30
    parameters = settings(5, 2.0, **limits)
    tokens = run(logits, parameters, device)
    assert_explained(tokens, logits, parameters)
    assert tokens[4] == 321


FLAT = ROOM + 301  # all of them candidates, and no room for them


@pytest.mark.parametrize("top_k", [0, 1, 700, FLAT - 1])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_flat_rows_have_more_candidates_than_room(top_k, top_p, device):
    logits = np.zeros((4, FLAT), "f4")
    logits[1, ::2] = -1e-3
    logits[2, 2000:2700] = 1e-3
    logits[3] = np.linspace(0, 1e-7, FLAT)
    parameters = settings(4, 1.0, top_k, top_p)
    assert_explained(run(logits, parameters, device), logits, parameters)


@pytest.mark.parametrize("count", [ROOM_OF_BLOCK, ROOM_OF_BLOCK + 1, 3 * ROOM_OF_BLOCK])
def test_a_part_may_have_more_candidates_than_room(count, device):
    logits = numbers(2, 9000)
    logits[:, 1000 : 1000 + count] = 0.5 + np.arange(count) * 1e-5
    parameters = settings(2, 1.0, [4000, 0], [1, 0.4])
    assert_explained(run(logits, parameters, device), logits, parameters)


def test_one_huge_logit_takes_all(device):
    logits = numbers(3, 1000)
    logits[:, 77] = [1e4, 3e38, 3e38]
    logits[2, 500] = -3e38
    for limits in LIMITS.values():
        limits = {name: np.resize(value, 3) for name, value in limits.items()}
        assert run(logits, settings(3, 1.0, **limits), device).tolist() == [77] * 3


# -- Alone and in a batch -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [33, 1000, SHARE + 8])
def test_a_row_does_not_depend_on_the_rest_of_the_batch(length, device):
    logits = numbers(9, length)
    rng = np.random.default_rng(0)
    parameters = settings(
        9,
        rng.choice([0, 0.5, 1.0, 2.0], 9),
        rng.integers(0, 50, 9),
        rng.uniform(0.1, 1, 9),
        rng.uniform(0, 0.1, 9),
    )
    together = run(logits, parameters, device)
    for b in (0, 4, 8):
        row = slice(b, b + 1)
        alone = run(logits[row], [each[row] for each in parameters], device)
        assert alone[0] == together[b]
    some = [6, 2, 0, 8]
    assert run(logits[some], [each[some] for each in parameters], device).tolist() == (
        together[some].tolist()
    )


def test_where_rows_begin_does_not_matter(device):
    logits = numbers(4, 1000)
    parameters = [to_device(np.ascontiguousarray(p), device) for p in settings(4, 1.0, 50, 0.9)]
    aligned = to_host(sampling.sample_tokens(to_device(logits, device), *parameters))
    whole = to_device(np.zeros(4001, "f4"), device)
    part = whole[1:].reshape(4, 1000)
    part[...] = to_device(logits, device)
    assert to_host(sampling.sample_tokens(part, *parameters)).tolist() == aligned.tolist()
    longer = np.full((4, 1003), -np.inf, "f4")
    longer[:, :1000] = logits
    found = sampling.sample_tokens(to_device(longer, device), *parameters)
    assert to_host(found).tolist() == aligned.tolist()


def test_no_rows_are_no_error(device):
    assert run(numbers(0, 33), settings(0), device).shape == (0,)
    assert to_host(sampling.argmax(to_device(numbers(0, 33), device))).shape == (0,)


# -- Large vocabularies -------------------------------------------------------------------------


@pytest.mark.gpu
@each_dtype
@pytest.mark.parametrize("length", [50_257, 128_256, 131_072])
def test_rows_of_a_large_vocabulary(length, dtype, device):
    if device == "sim":
        pytest.skip("takes minutes in the simulator")
    logits = numbers(16, length, dtype)
    rng = np.random.default_rng(1)
    parameters = settings(
        16,
        rng.choice([0.5, 1.0, 2.0], 16),
        rng.choice([0, 1, 50, 3000], 16),
        rng.choice([0.5, 0.9, 1.0], 16),
        rng.choice([0, 0.01], 16),
    )
    assert_explained(run(logits, parameters, device), logits, parameters)


# -- Compiled -----------------------------------------------------------------------------------


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
@pytest.mark.parametrize("length", [64, 33])
def test_kernels_stay_in_registers(length, capability, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    launches = []
    with intercept(launches.append):
        run(numbers(2, length, dtype), settings(2), "sim")
    for launch in launches:
        found = resources(launch, capability)
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
        assert not found.float64


# -- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("logits", np.zeros(5, "f4"), ["'logits'", "2 axes"]),
        ("logits", np.zeros((3, 0), "f4"), ["vocabulary", "from 1 to 4194304"]),
        ("logits", np.zeros((3, 5), "f8"), ["'logits'", "float64"]),
        ("temperature", np.ones(3, "f8"), ["'temperature'", "float64", "float32"]),
        ("top_k", np.ones(3, "i8"), ["'top_k'", "int64", "int32"]),
        ("top_p", np.ones(2, "f4"), ["'top_p'", "(2,)", "(3,)"]),
        ("seeds", np.ones(3, "i8"), ["'seeds'", "int64", "uint64"]),
        ("out", np.ones(3, "i4"), ["'out'", "int32", "int64"]),
        ("step", "sorted", ["'step'", "'sorted'", "search, histogram"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(name, value, words, device):
    names = ("temperature", "top_k", "top_p", "min_p", "seeds", "streams", "positions")
    operands = {"logits": np.zeros((3, 5), "f4")} | dict(zip(names, settings(3), strict=True))
    operands[name] = value
    for operand, array in operands.items():
        if isinstance(array, np.ndarray):
            operands[operand] = to_device(np.ascontiguousarray(array), device)
    with pytest.raises(KernelArgumentError) as refusal:
        sampling.sample_tokens(**operands)
    for word in words:
        assert word in str(refusal.value)
