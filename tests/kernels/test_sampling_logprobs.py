"""Penalties and logarithms of probabilities on a device, against the reference in float64.

Bound of a logarithm of a probability, in units u = 2^-24: x - m and the logarithm of the sum are
rounded, the difference of both once more, numbers no larger than L = max |x - m| + log V; the sum's
own relative error adds to it as it is: its exponents carry three roundings of numbers up to L, and
its terms are added in runs of 16 and then in pairs.
"""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import sampling
from llm_numba.runtime import intercept, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources

U = 2.0**-24
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
LENGTHS = [1, 31, 33, 1000, 4099, 8200]


def numbers(batch, length, dtype="float32"):
    rng = np.random.default_rng([batch, length])
    return rng.normal(scale=3, size=(batch, length)).astype(dtype)


def bound(logits):
    """Return the bound above for rows of finite logits [B, 1]."""
    exact = logits.astype("f8")
    largest = np.ptp(exact, axis=-1, keepdims=True) + np.log(exact.shape[-1])
    return (8 * largest + 16 + 20) * U


def top_logprobs(logits, token_ids, count, device):
    found = sampling.top_logprobs(to_device(logits, device), to_device(token_ids, device), count)
    return [to_host(each) for each in found]


@each_dtype
@pytest.mark.parametrize("length", LENGTHS)
def test_logarithms_are_the_reference_s(length, dtype, device):
    x = numbers(3, length, dtype)
    y = to_host(sampling.log_softmax(to_device(x, device)))
    truth = reference.log_softmax(x.astype("f8"))
    rounding = float(ml_dtypes.finfo(dtype).eps) / 2 * np.abs(truth)
    assert y.dtype == x.dtype
    assert (np.abs(y.astype("f8") - truth) <= bound(x) + rounding).all()


@each_dtype
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_most_likely_tokens_come_in_order(count, length, dtype, device):
    x = numbers(4, length, dtype)
    x[1] = x[1].round()  # many equals
    x[2] = 1
    tokens = np.array([0, length // 2, length - 1, x[3].argmax()], "i4")
    count = min(count, length)
    logprob, rank, ids, logprobs = top_logprobs(x, tokens, count, device)
    truth = reference.top_logprobs(x.astype("f8"), tokens, count)
    np.testing.assert_array_equal(rank, truth[1])
    np.testing.assert_array_equal(ids, truth[2])
    assert (np.abs(logprob - truth[0]) <= bound(x)[:, 0]).all()
    assert (np.abs(logprobs - truth[3]) <= bound(x)).all()
    assert [each.dtype.name for each in (logprob, rank, ids, logprobs)] == [
        "float32", "int64", "int64", "float32"
    ]  # fmt: skip


def test_masked_tokens_have_no_probability(device):
    x = numbers(2, 1000)
    x[:, 5:900] = -np.inf
    logprob, rank, _, _ = top_logprobs(x, np.array([3, 700]), 3, device)
    assert logprob[1] == -np.inf
    assert rank[1] == 106
    y = to_host(sampling.log_softmax(to_device(x, device)))
    np.testing.assert_array_equal(np.isneginf(y), np.isneginf(x))


@pytest.mark.parametrize("token", [-1, 1000])
def test_a_token_that_is_none_has_no_logarithm_and_harms_nobody(token, device):
    x = numbers(2, 1000)
    logprob, _, ids, _ = top_logprobs(x, np.array([token, 4], "i4"), 2, device)
    assert np.isnan(logprob).tolist() == [True, False]
    np.testing.assert_array_equal(ids, reference.top_logprobs(x, np.array([0, 4]), 2)[2])


def test_a_row_does_not_depend_on_the_rest_of_the_batch(device):
    x, tokens = numbers(5, 5000), np.arange(5, dtype="i4")
    together = top_logprobs(x, tokens, 5, device)
    alone = top_logprobs(x[3:4], tokens[3:4], 5, device)
    for all_rows, row in zip(together, alone, strict=True):
        np.testing.assert_array_equal(all_rows[3:4], row)


def test_no_rows_are_no_error(device):
    shapes = [each.shape for each in top_logprobs(numbers(0, 9), np.zeros(0, "i4"), 2, device)]
    assert shapes == [(0,), (0,), (0, 2), (0, 2)]
    assert to_host(sampling.log_softmax(to_device(numbers(0, 9), device))).shape == (0, 9)


def past(rng, rows, length):
    """Tokens, counts and starts: of a row nothing, of one all tokens, of the others some."""
    sizes = [0, length, *rng.integers(length + 1, size=rows - 2)]
    tokens = np.concatenate([rng.permutation(length)[:size] for size in sizes]).astype("i4")
    counts = rng.integers(3, size=len(tokens)).astype("i4")
    return tokens, counts, np.cumsum([0, *sizes]).astype("i4")


@each_dtype
@pytest.mark.parametrize("length", [1, 33, 4099])
def test_penalties_are_the_reference_s(length, dtype, device):
    """The latest token is none, in the list, or perhaps not."""
    rng = np.random.default_rng(length)
    x = numbers(6, length, dtype)
    seen = past(rng, 6, length)
    latest = np.array([length - 1, length // 2, -1, length, 0, rng.integers(length)], "i4")
    factors = [rng.uniform(0.5, 2, 6).astype("f4") for _ in range(3)]
    arrays = [to_device(each, device) for each in (x, *seen, latest, *factors)]
    y = to_host(sampling.apply_penalties(*arrays))
    exact = [each.astype("f8") for each in factors]
    truth = reference.apply_penalties(x.astype("f8"), *seen, latest, *exact)
    # Four roundings of numbers no larger than twice the logit and the penalties; one to store.
    size = 2 * np.abs(x.astype("f8")) + exact[1][:, None] + 3 * exact[2][:, None]
    stored = float(ml_dtypes.finfo(dtype).eps) / 2 * np.abs(truth)
    assert y.dtype == x.dtype
    assert (np.abs(y.astype("f8") - truth) <= 4 * U * size + stored * (1 + 4 * U)).all()
    same = truth == x.astype("f8")
    np.testing.assert_array_equal(y[same], x[same])
    assert sampling.apply_penalties(*arrays, out=arrays[0]) is arrays[0]
    np.testing.assert_array_equal(to_host(arrays[0]), y)


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("length", [64, 33])
def test_kernels_stay_in_registers(length, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    launches, x = [], to_device(numbers(2, length, dtype), "sim")
    ones = to_device(np.ones(2, "f4"), "sim")
    with intercept(launches.append):
        sampling.log_softmax(x)
        sampling.top_logprobs(x, to_device(np.zeros(2, "i4"), "sim"), 3)
        listed = (to_device(np.zeros(size, "i4"), "sim") for size in (4, 4, 3, 2))
        sampling.apply_penalties(x, *listed, *[ones] * 3)
    for launch in launches:
        found = resources(launch, (9, 0))
        assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
        assert not found.float64


@pytest.mark.parametrize(
    ("tokens", "count", "words"),
    [
        (np.zeros(2, "i4"), 2, ["'token_ids'", "(2,)", "(3,)"]),
        (np.zeros(3, "f4"), 2, ["'token_ids'", "float32", "int32"]),
        (np.zeros(3, "i4"), 6, ["'count'", "from 0 to 5"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(tokens, count, words, device):
    with pytest.raises(KernelArgumentError) as refusal:
        top_logprobs(numbers(3, 5), tokens, count, device)
    for word in words:
        assert word in str(refusal.value)
