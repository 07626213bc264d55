"""From logits to a token: penalties by hand, the sets that survive, the token that is drawn."""

import math

import numpy as np
import pytest

from llm_numba import reference

floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def probabilities(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, dtype=np.float64):
    """Call with the same parameters in every row, or with one of each a row."""
    logits = np.array(rows, dtype)
    settings = [np.broadcast_to(s, len(logits)) for s in (temperature, top_k, top_p, min_p)]
    return reference.sampling_probabilities(logits, *settings)


def survivors(probs):
    return [set(np.flatnonzero(row).tolist()) for row in probs]


def true_probabilities(logits, temperature, top_k, top_p, min_p):
    """Walk down one row's tokens, the most likely first; equals of the last kept are kept."""
    top = max(logits)
    weight = {i: math.exp((x - top) / temperature) for i, x in enumerate(logits)}
    kept = {i for i in weight if weight[i] >= min_p}
    ranked = sorted(kept, key=lambda i: -weight[i])
    ranked = ranked[: top_k or None]
    total, mass, last = math.fsum(weight[i] for i in ranked), 0.0, math.inf
    for i in ranked:
        if top_p < 1 and mass >= top_p * total:
            break
        mass += weight[i]
        last = weight[i]
    kept = {i for i in kept if weight[i] >= last}
    total = math.fsum(weight[i] for i in kept)
    return [weight[i] / total if i in kept else 0.0 for i in range(len(logits))]


# -- Greedy -------------------------------------------------------------------------------------


def test_argmax_takes_the_largest_and_the_first_of_equals():
    logits = np.array([[1, 3, 3, 2], [-5, -7, -9, -5], [0, 0, 0, 0], [-np.inf, 1, 4, 5]])
    tokens = reference.argmax(logits)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [1, 0, 0, 3]


def test_argmax_of_a_row_without_a_largest_number_is_none():
    rows = [[1, np.inf], [np.nan, 1], [-np.inf, -np.inf], [-np.inf, np.nan]]
    assert reference.argmax(np.array(rows)).tolist() == [-1] * 4


# -- Penalties ----------------------------------------------------------------------------------


@floats
def test_penalties_by_hand(dtype):
    #                   seen in prompt | generated twice | both, once | never
    logits = np.array([[4.0, -4.0, 4.0, -4.0, 4.0, -4.0, 4.0, -4.0]], dtype)
    tokens, counts = np.array([5, 0, 3, 1, 2, 4]), np.array([1, 0, 2, 0, 2, 1])

    def penalized(repetition, presence, frequency):
        return reference.apply_penalties(
            logits,
            tokens,
            counts,
            np.array([0, 6]),
            np.array([len(logits[0])]),
            np.array([repetition]),
            np.array([presence]),
            np.array([frequency]),
        )[0].tolist()

    assert penalized(1.0, 0.0, 0.0) == logits[0].tolist()
    assert penalized(2.0, 0.0, 0.0) == [2, -8, 2, -8, 2, -8, 4, -4]
    assert penalized(0.5, 0.0, 0.0) == [8, -2, 8, -2, 8, -2, 4, -4]
    assert penalized(1.0, 0.5, 0.0) == [4, -4, 3.5, -4.5, 3.5, -4.5, 4, -4]
    assert penalized(1.0, 0.0, 0.25) == [4, -4, 3.5, -4.5, 3.75, -4.25, 4, -4]
    assert penalized(2.0, 0.5, 0.25) == [2, -8, 1, -9, 1.25, -8.75, 4, -4]
    assert penalized(1.0, -0.5, -0.25) == [4, -4, 5, -3, 4.75, -3.25, 4, -4]


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        (-1, [2, 4, 2.5, 4]),
        (4, [2, 4, 2.5, 4]),
        (0, [0.75, 4, 2.5, 4]),
        (1, [2, 0.75, 2.5, 4]),
        (2, [2, 4, 2.25, 4]),
    ],
    ids=["not finite", "none", "in the prompt", "new", "generated"],
)
def test_a_token_that_is_in_no_count_yet_counts_once_more(latest, expected):
    """Token 0 is in the prompt, token 2 was generated twice."""
    logits, tokens, counts = np.array([[4.0, 4.0, 8.0, 4.0]]), np.array([2, 0]), np.array([2, 0])
    starts, factors = np.array([0, 2]), (np.array([each]) for each in (2.0, 1.0, 0.25))
    latest = np.array([latest])
    found = reference.apply_penalties(logits, tokens, counts, starts, latest, *factors)
    assert found[0].tolist() == expected


@floats
def test_each_row_has_its_own_penalties_and_the_logits_are_left_alone(dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 31)).astype(dtype)
    before = logits.copy()
    tokens = [rng.permutation(31)[:length].astype(np.int32) for length in (7, 0, 31, 1, 12)]
    counts = [rng.integers(3, size=len(each)) for each in tokens]
    starts = np.cumsum([0, *map(len, tokens)])
    latest = rng.integers(31, size=5)
    settings = [rng.uniform(0.5, 2, size=5) for _ in range(3)]
    past = np.concatenate(tokens), np.concatenate(counts), starts, latest
    y = reference.apply_penalties(logits, *past, *settings)
    assert y.dtype == dtype
    for b in range(5):
        row = slice(b, b + 1)
        past = tokens[b], counts[b], np.array([0, len(tokens[b])]), latest[row]
        alone = reference.apply_penalties(logits[row], *past, *(s[row] for s in settings))
        np.testing.assert_array_equal(y[b], alone[0])
    np.testing.assert_array_equal(logits, before)


# -- Which tokens survive -----------------------------------------------------------------------


def test_temperature_divides_the_logits():
    logits = [[0.0, math.log(4), math.log(9)]]
    for temperature, weights in [(1.0, (1, 4, 9)), (2.0, (1, 2, 3)), (0.5, (1, 16, 81))]:
        probs = probabilities(logits, temperature)
        np.testing.assert_allclose(probs[0], np.array(weights) / sum(weights), rtol=1e-14)


@floats
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_the_coldest_temperatures_leave_the_most_likely_tokens(temperature, dtype):
    probs = probabilities([[1.0, 20.0, -3.0], [5.0, 0.0, 5.0]], temperature, dtype=dtype)
    assert probs.tolist() == [[0, 1, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize(
    ("k", "kept"), [(1, {2}), (2, {2, 0}), (4, {2, 0, 3, 1}), (99, {0, 1, 2, 3})]
)
def test_top_k_keeps_the_k_most_likely(k, kept):
    probs = probabilities([[3.0, 1.0, 4.0, 1.5]], top_k=k)
    assert survivors(probs) == [kept]
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-15)


def test_no_limit_keeps_everything():
    assert survivors(probabilities([[0.0, -50.0, 9.0]])) == [{0, 1, 2}]


def test_equals_of_the_last_token_kept_are_kept_too():
    row = [1.0, 2.0, 1.0, 0.0, 1.0]
    assert survivors(probabilities([row], top_k=2)) == [{0, 1, 2, 4}]
    assert survivors(probabilities([row], top_k=1)) == [{1}]
    # Shares 0.433, three of 0.159, 0.059: half the mass is reached within the ties.
    assert survivors(probabilities([row], top_p=0.5)) == [{0, 1, 2, 4}]
    assert survivors(probabilities([[7.0] * 31], top_k=3, top_p=0.1)) == [set(range(31))]


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    row = [[math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]]
    for top_p, kept in [
        (1e-300, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 2, 3}),
        (0.91, {0, 1, 2, 3}),
    ]:
        assert survivors(probabilities(row, top_p=top_p)) == [kept]


def test_top_p_reached_exactly_needs_no_further_token():
    # Halves and quarters are exact, so that 'reaches' can be told from 'exceeds'.
    probs = probabilities([[0.0, 0.0, -np.inf, -np.inf]], top_p=0.5)
    assert survivors(probs) == [{0, 1}]  # ties
    least = reference.sampling._least_kept
    assert least(np.array([0.25, 0.5, 0.125, 0.125]), 0, 0.5) == 0.5
    assert least(np.array([0.25, 0.5, 0.125, 0.125]), 0, 0.75) == 0.25
    assert least(np.array([0.25, 0.5, 0.125, 0.125]), 0, 0.75 + 2**-50) == 0.125


def test_min_p_is_a_part_of_the_largest_probability():
    row = [[math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]]
    for min_p, kept in [(0.2, {0, 1, 2, 3}), (0.3, {1, 2, 3}), (0.7, {1, 3}), (1.0, {1})]:
        assert survivors(probabilities(row, min_p=min_p)) == [kept]
    assert survivors(probabilities([[2.0, 2.0, 1.0]], min_p=1.0)) == [{0, 1}]


def test_top_p_counts_only_what_min_p_and_top_k_have_left():
    # Of 0.4 and 0.3 alone the first holds 0.57; of all four it holds 0.4.
    row = [[math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]]
    assert survivors(probabilities(row, top_p=0.5)) == [{1, 3}]
    assert survivors(probabilities(row, top_k=2, top_p=0.5)) == [{1}]
    assert survivors(probabilities(row, min_p=0.7, top_p=0.5)) == [{1}]


@pytest.mark.parametrize("size", [1, 2, 31, 127])
@pytest.mark.parametrize("whole_numbers", [False, True], ids=["all different", "many ties"])
def test_random_settings_give_the_distribution_of_a_walk_down_the_ranking(size, whole_numbers):
    rng = np.random.default_rng([size, whole_numbers])
    batch = 40
    logits = rng.normal(scale=3, size=(batch, size))
    if whole_numbers:
        logits = logits.round()
    temperature = rng.choice([0.5, 1.0, 1.7], batch)
    top_k = rng.choice([0, 1, 2, 17, 1000], batch)
    top_p = rng.choice([1e-9, 0.3, 0.77, 0.999, 1.0], batch)
    min_p = rng.choice([0.0, 0.013, 0.21, 1.0], batch)
    before = logits.copy()
    probs = reference.sampling_probabilities(logits, temperature, top_k, top_p, min_p)
    for b in range(batch):
        truth = true_probabilities(
            logits[b].tolist(), temperature[b], int(top_k[b]), top_p[b], min_p[b]
        )
        assert survivors(probs[b : b + 1]) == [{i for i, p in enumerate(truth) if p}]
        np.testing.assert_allclose(probs[b], truth, rtol=1e-12)
    np.testing.assert_array_equal(logits, before)


@floats
def test_a_row_does_not_depend_on_the_rest_of_the_batch(dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(9, 257)).astype(dtype)
    settings = (
        rng.uniform(0.1, 2, 9),
        rng.integers(0, 50, 9),
        rng.uniform(0.1, 1, 9),
        rng.uniform(0, 0.1, 9),
    )
    together = reference.sampling_probabilities(logits, *settings)
    assert together.dtype == dtype
    for b in range(9):
        row = slice(b, b + 1)
        alone = reference.sampling_probabilities(logits[row], *(s[row] for s in settings))
        np.testing.assert_array_equal(together[b], alone[0])


# -- Which token is drawn -----------------------------------------------------------------------


def test_the_token_is_where_the_running_sum_first_exceeds_the_uniform():
    probs = np.array([0.0, 0.25, 0.0, 0.5, 0.125, 0.125, 0.0])
    for uniform, token in [
        (0.0, 1),
        (0.2499, 1),
        (0.25, 3),
        (0.7499, 3),
        (0.75, 4),
        (0.875, 5),
        (1 - 2**-53, 5),
    ]:
        assert reference.sample(probs[None], np.array([uniform])).tolist() == [token]


@floats
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53])
def test_no_token_of_probability_zero_is_ever_drawn(uniform, dtype):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=8, size=(300, 257))
    logits[rng.random(logits.shape) < 0.5] = -np.inf
    logits[:, [0, -1]] = -np.inf
    probs = probabilities(logits, dtype=dtype)
    probs[::3] *= dtype(0.999)  # sums that rounding left short of 1
    tokens = reference.sample(probs, np.full(300, uniform))
    assert tokens.dtype == np.int64
    assert (probs[np.arange(300), tokens] > 0).all()


def test_rows_are_drawn_each_with_its_own_number():
    probs = np.full((4, 4), 0.25)
    uniform = np.array([0.9, 0.1, 0.3, 0.6])
    assert reference.sample(probs, uniform).tolist() == [3, 0, 1, 2]


# -- All of it ----------------------------------------------------------------------------------


def settings(batch, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Broadcast parameters to a batch, and number its requests."""
    limits = [np.broadcast_to(each, batch) for each in (temperature, top_k, top_p, min_p)]
    numbers = np.arange(batch)
    return *limits, numbers.astype(np.uint64), numbers % 3, numbers + 7


def test_a_row_is_greedy_below_the_coldest_temperature_and_drawn_above():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(40, 31))
    parameters = settings(40, np.where(np.arange(40) % 2, 1e-6, 0.8), 20, 0.95, 0.01)
    tokens = reference.sample_tokens(logits, *parameters)
    probs = reference.sampling_probabilities(logits, np.full(40, 0.8), *parameters[1:4])
    drawn = reference.sample(probs, reference.philox_uniform(*parameters[4:]))
    assert tokens.dtype == np.int64
    assert tokens[::2].tolist() == drawn[::2].tolist()
    assert tokens[1::2].tolist() == logits.argmax(axis=-1)[1::2].tolist()
    assert (drawn != logits.argmax(axis=-1)).any()


def test_a_row_without_a_finite_maximum_has_no_token():
    logits = np.zeros((6, 5))
    logits[0, 3], logits[1, 3], logits[2], logits[3, 1:] = np.nan, np.inf, -np.inf, -np.inf
    for temperature in (0.0, 1.0):
        tokens = reference.sample_tokens(logits, *settings(6, temperature))
        assert tokens[:4].tolist() == [-1, -1, -1, 0]
        assert (tokens[4:] >= 0).all()


def test_top_logprobs_rank_by_likelihood_then_by_token():
    row = [math.log(p) for p in (0.1, 0.3, 0.1, 0.4, 0.1)]
    logprob, rank, ids, logprobs = reference.top_logprobs(
        np.array([row] * 3), np.array([4, 3, 1]), 4
    )
    np.testing.assert_allclose(np.exp(logprob), [0.1, 0.4, 0.3], rtol=1e-14)
    assert rank.tolist() == [3, 1, 2]
    assert ids.tolist() == [[3, 1, 0, 2]] * 3
    np.testing.assert_allclose(np.exp(logprobs), [[0.4, 0.3, 0.1, 0.1]] * 3, rtol=1e-14)
