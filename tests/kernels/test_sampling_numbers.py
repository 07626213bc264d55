"""The sampler's numbers: keys in the order of floats, random bits, weights, bins, products."""

import numpy as np
from numba import cuda, uint64

from llm_numba.kernels.sampling_numbers import (
    BINS,
    LOWEST,
    above_bin,
    bin_of,
    key_of,
    part_of,
    philox4x32,
    uniform_bits,
    units,
    units_in_bin,
    units_of_bin,
    value_of,
)
from llm_numba.reference.sampling import philox4x32 as reference_philox
from llm_numba.reference.sampling import philox_uniform
from llm_numba.runtime import empty, launch, to_device, to_host


@cuda.jit
def keys_and_back(values, keys, back):
    i = cuda.grid(1)
    if i < values.size:
        keys[i] = key_of(values[i])
        back[i] = value_of(keys[i])


@cuda.jit
def random_words(seeds, streams, positions, words, bits):
    i = cuda.grid(1)
    if i < seeds.size:
        word = uint64(0xFFFFFFFF)
        found = philox4x32(uint64(positions[i]) & word, uint64(streams[i]) & word, seeds[i])
        for w in range(4):
            words[i, w] = found[w]
        bits[i] = uniform_bits(seeds[i], streams[i], positions[i])


@cuda.jit
def units_and_bins(weights, bins, above, exact, binned):
    i = cuda.grid(1)
    if i < weights.size:
        b = bin_of(weights[i])
        bins[i], above[i], exact[i] = b, above_bin(b), units(weights[i])
        binned[i] = units_of_bin(units_in_bin(weights[i]), b)


@cuda.jit
def products(totals, shares, out):
    i = cuda.grid(1)
    if i < totals.size:
        out[i] = part_of(totals[i], shares[i])


def run(kernel, device, inputs, outputs, scalars=()):
    """Launch a kernel of one thread an entry; return its outputs."""
    inputs = [to_device(each, device) for each in inputs]
    made = [empty(shape, dtype, like=inputs[0]) for shape, dtype in outputs]
    launch(kernel, -(-inputs[0].size // 64), 64, (*inputs, *scalars, *made))
    return [to_host(each) for each in made]


def test_keys_are_in_the_order_of_floats(device):
    tiny = np.float32(1e-45)
    inner = np.random.default_rng(0).normal(size=200).astype("f4")
    values = np.array([-np.inf, -3e38, -1, -tiny, tiny, 1, 3e38, np.inf, *inner], "f4")
    shape = values.shape
    keys, back = run(keys_and_back, device, [values], [(shape, "i4"), (shape, "f4")])
    np.testing.assert_array_equal(
        np.argsort(keys, kind="stable"), np.argsort(values, kind="stable")
    )
    np.testing.assert_array_equal(back, values)


def test_zeros_share_a_key_and_nan_has_the_largest(device):
    values = np.array([0.0, -0.0, np.nan, np.nan, np.inf], "f4")
    values[3] = -values[3]  # the sign that x86 gives 0 / 0
    keys, _ = run(keys_and_back, device, [values], [((5,), "i4"), ((5,), "f4")])
    assert keys[0] == keys[1] == 0
    assert keys[2] == keys[3] == 2**31 - 1 > keys[4]


def test_random_words_are_the_reference_s_to_the_bit(device):
    rng = np.random.default_rng(1)
    seeds = np.array([0, 1, 2**64 - 1, *rng.integers(2**64, size=60, dtype="u8")], "u8")
    streams = np.array([0, 2**31 - 1, -1, *rng.integers(9, size=60)], "i4")
    positions = np.array([0, 2**31 - 1, -1, *rng.integers(9999, size=60)], "i4")
    words, bits = run(
        random_words, device, [seeds, streams, positions], [((63, 4), "u8"), ((63,), "i8")]
    )
    streams, positions = (each.astype("i8") & (2**32 - 1) for each in (streams, positions))
    for i in range(63):
        counter = (int(positions[i]), int(streams[i]), 0, 0)
        assert tuple(words[i].tolist()) == reference_philox(counter, int(seeds[i]))
    np.testing.assert_array_equal(bits * 2.0**-24, philox_uniform(seeds, streams, positions))


def test_bins_are_in_order_and_hold_weights_to_a_part_in_2_to_the_16(device):
    exponents = np.arange(-40, 1)
    edges = np.ldexp(1 + np.arange(16)[:, None] / 16, exponents).ravel()
    inner = np.exp2(np.random.default_rng(3).uniform(-40, 0, 500))
    weights = np.concatenate([edges, inner]).astype("f4")
    weights = np.concatenate([weights, np.nextafter(weights, np.float32(0))])
    weights = np.sort(weights[(weights >= LOWEST) & (weights <= 1)])[::-1].copy()
    shape = weights.shape
    outputs = [(shape, "i4"), (shape, "f4"), (shape, "i8"), (shape, "i8")]
    bins, above, exact, binned = run(units_and_bins, device, [weights], outputs)
    assert (np.diff(bins) >= 0).all()
    assert len(np.unique(bins)) == 40 * 16 + 1
    assert bins.max() < BINS
    for b in np.unique(bins):  # what lies above a bin's border is what smaller bins hold
        np.testing.assert_array_equal(weights > above[bins == b][0], bins < b)
    truth = weights.astype("f8") * 2**40
    assert (np.abs(exact - truth) < 1).all()
    assert (np.abs(binned - truth) <= truth * 2.0**-16 + 1).all()
    assert (binned > 0).all()


def test_a_share_of_units_is_whole_and_rounded_down(device):
    rng = np.random.default_rng(2)
    totals = np.array([0, 1, 2**24 - 1, 2**24, 2**62 + 12345, *rng.integers(2**57, size=58)], "i8")
    shares = np.array([5, 2**24, 2**24 - 1, 1, 2**24 - 1, *rng.integers(2**24, size=58)], "i8")
    (found,) = run(products, device, [totals, shares], [((63,), "i8")])
    truth = [int(t) * int(s) >> 24 for t, s in zip(totals, shares, strict=True)]
    assert found.tolist() == truth
