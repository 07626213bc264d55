"""The random numbers: the published vectors, and statistics over each thing that may vary.

A chi-square statistic is judged by its tail probability. A right generator falls below one in a
million for one seed in a million; the seeds here are fixed, so the tests are not random.
"""

import math

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.reference.sampling import philox4x32

ONE_IN_A_MILLION = 1e-6


def tail_probability(statistic, degrees):
    """P(chi-square > statistic), a finite sum for an even number of degrees of freedom."""
    assert degrees % 2 == 0
    half = statistic / 2
    return math.exp(-half) * math.fsum(half**i / math.factorial(i) for i in range(degrees // 2))


def fit(counts, expected):
    """Return the probability of counts at least as far from their expectation."""
    counts = np.asarray(counts, float)
    return tail_probability(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


def test_the_tail_probability_is_that_of_the_tables():
    assert tail_probability(18.307, 10) == pytest.approx(0.05, rel=1e-4)
    assert tail_probability(13.816, 2) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            (0x00000000, 0x00000000, 0x00000000, 0x00000000),
            (0x00000000, 0x00000000),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_known_answers_of_random123(counter, key, words):
    assert philox4x32(counter, key[0] | key[1] << 32) == words


def test_a_uniform_is_the_upper_24_bits_of_the_first_word():
    (zero,) = reference.philox_uniform(np.array([0], np.uint64), np.array([0]), np.array([0]))
    assert zero == 0x6627E8 / 2**24
    seeds = np.array([0, 5, 2**64 - 1], np.uint64)
    streams, positions = np.array([0, 3, 2**32 - 1]), np.array([9, 0, 2**32 - 1])
    rows = zip(seeds, streams, positions, strict=True)
    words = [philox4x32((int(p), int(s), 0, 0), int(seed))[0] for seed, s, p in rows]
    uniform = reference.philox_uniform(seeds, streams, positions)
    assert uniform.dtype == np.float64
    assert uniform.tolist() == [(word >> 8) / 2**24 for word in words]


def test_float32_holds_every_uniform_exactly_and_below_1():
    uniform = reference.philox_uniform(
        np.full(1000, 1, np.uint64), np.zeros(1000, int), np.arange(1000)
    )
    assert np.array_equal(uniform.astype(np.float32), uniform)
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_an_empty_batch_draws_nothing():
    nothing = np.zeros(0, int)
    assert reference.philox_uniform(nothing.astype(np.uint64), nothing, nothing).shape == (0,)


def draws(varying, count):
    index = np.arange(count)
    rows = {"seeds": np.full(count, 42), "streams": np.full(count, 1), "positions": index * 0}
    rows[varying] = index
    return reference.philox_uniform(
        rows["seeds"].astype(np.uint64), rows["streams"], rows["positions"]
    )


@pytest.mark.parametrize("varying", ["seeds", "streams", "positions"])
def test_uniforms_are_spread_evenly_and_neighbours_are_independent(varying):
    uniform = draws(varying, 10_000)
    assert len(set(uniform.tolist())) > 9_990  # 24 bits: about 3 pairs coincide
    counts, _ = np.histogram(uniform, 101, (0, 1))
    assert fit(counts, 10_000 / 101) > ONE_IN_A_MILLION
    cells, *_ = np.histogram2d(uniform[0::2], uniform[1::2], 11, [(0, 1), (0, 1)])
    assert fit(cells, 5_000 / 121) > ONE_IN_A_MILLION


@pytest.mark.parametrize("varying", ["streams", "positions"])
def test_tokens_come_as_often_as_their_probabilities_say(varying):
    probs = np.array([[0.4, 0.0, 0.25, 0.2, 0.1, 0.03, 0.015, 0.005]])
    count = 10_000
    tokens = reference.sample(probs.repeat(count, axis=0), draws(varying, count))
    counts = np.bincount(tokens, minlength=8)
    assert counts[1] == 0
    possible = probs[0] > 0
    assert fit(counts[possible], count * probs[0, possible]) > ONE_IN_A_MILLION
    # The statistic can tell: probabilities that are a tenth off fail.
    wrong = np.array([0.36, 0.29, 0.2, 0.1, 0.03, 0.015, 0.005])
    assert fit(counts[possible], count * wrong) < ONE_IN_A_MILLION
