"""RoPE against multiplication of complex numbers, and the scalings against their three cases."""

import cmath
import math

import numpy as np
import pytest

from llm_numba import reference
from llm_numba.reference import RopeScaling

PLAIN = RopeScaling()
LLAMA_3_1 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def tables(rotary_dim, num_positions, base=10000.0, dtype=np.float64):
    return reference.rope_tables(
        reference.rope_frequencies(rotary_dim, base, PLAIN), num_positions, np.dtype(dtype)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "head_dim", "rotary_dim"),
    [(1, 1, 2, 2), (0, 2, 4, 4), (31, 3, 64, 64), (7, 2, 10, 4), (33, 1, 127, 62)],
)
def test_each_pair_turns_by_its_angle_and_the_rest_passes(
    num_tokens, num_heads, head_dim, rotary_dim, dtype
):
    rng = np.random.default_rng(num_tokens)
    x = rng.normal(size=(num_tokens, num_heads, head_dim)).astype(dtype)
    positions = rng.integers(257, size=num_tokens)
    before = x.copy()
    y = reference.rope(x, positions, *tables(rotary_dim, 257, dtype=dtype))
    assert y.dtype == dtype
    half = rotary_dim // 2
    u = float(np.finfo(dtype).eps) / 2
    for n, position in enumerate(positions.tolist()):
        for h in range(num_heads):
            for i in range(half):
                angle = position * 10000.0 ** (-2 * i / rotary_dim)
                pair = complex(x[n, h, i], x[n, h, half + i])
                turned = pair * cmath.exp(1j * angle)
                # Three roundings, the table's included; the angle's own error grows with it.
                bound = (6 * u + 1e-15 * (1 + angle)) * abs(pair)
                assert abs(complex(y[n, h, i], y[n, h, half + i]) - turned) <= bound
    np.testing.assert_array_equal(y[..., rotary_dim:], x[..., rotary_dim:])
    np.testing.assert_array_equal(x, before)


def test_position_0_changes_nothing():
    x = np.random.default_rng(0).normal(size=(3, 2, 8))
    np.testing.assert_array_equal(reference.rope(x, np.zeros(3, int), *tables(8, 1)), x)


def test_lengths_are_kept():
    x = np.random.default_rng(0).normal(size=(33, 2, 8))
    y = reference.rope(x, np.arange(33), *tables(8, 33))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)


def test_a_dot_product_depends_on_the_distance_alone():
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 16))
    cos, sin = tables(16, 4000)

    def product(query_position, key_position):
        turned = (
            reference.rope(x, np.array([p]), cos, sin)
            for x, p in ((q, query_position), (k, key_position))
        )
        return float(np.vdot(*turned))

    for distance in (0, 1, 31, 900):
        near = product(distance, 0)
        for start in (1, 127, 3000):
            assert product(start + distance, start) == pytest.approx(near, abs=1e-11)
    assert abs(product(3, 0) - product(0, 3)) > 1e-3


def test_frequencies_fall_from_1_by_equal_factors():
    theta = reference.rope_frequencies(64, 500000.0, PLAIN)
    assert theta.dtype == np.float64
    assert theta.shape == (32,)
    assert theta[0] == 1
    np.testing.assert_allclose(theta[1:] / theta[:-1], 500000.0 ** (-1 / 32), rtol=1e-14)


def test_linear_scaling_is_the_same_as_squeezing_the_positions():
    slow = reference.rope_frequencies(16, 10000.0, RopeScaling("linear", 4.0))
    stretched = reference.rope_tables(slow, 129, np.float64)
    usual = tables(16, 33)
    for a, b in zip(stretched, usual, strict=True):
        np.testing.assert_allclose(a[::4], b, atol=1e-14)


@pytest.mark.parametrize(
    ("scaling", "base", "rotary_dim"),
    [
        (LLAMA_3_1, 500000.0, 128),
        (RopeScaling("llama3", 32.0, 1.0, 4.0, 8192), 500000.0, 64),
        (RopeScaling("llama3", 3.0, 2.0, 7.0, 61), 100.0, 34),
    ],
)
def test_llama3_scaling_leaves_short_waves_divides_long_ones_and_blends_between(
    scaling, base, rotary_dim
):
    plain = reference.rope_frequencies(rotary_dim, base, PLAIN)
    scaled = reference.rope_frequencies(rotary_dim, base, scaling)
    low, high, context = (
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_context,
    )
    cases = set()
    for before, after in zip(plain.tolist(), scaled.tolist(), strict=True):
        wavelength = 2 * math.pi / before
        if wavelength < context / high:
            case, truth = "short", before
        elif wavelength > context / low:
            case, truth = "long", before / scaling.factor
        else:
            smooth = (context / wavelength - low) / (high - low)
            case, truth = "between", (1 - smooth) * before / scaling.factor + smooth * before
        assert after == pytest.approx(truth, rel=1e-14)
        cases.add(case)
    assert cases == {"short", "long", "between"}


def test_tables_are_rounded_once_even_at_the_end_of_a_long_context():
    # An angle of 131071 radians computed in float32 would be wrong by up to 0.004.
    frequencies = reference.rope_frequencies(8, 500000.0, PLAIN)
    cos, sin = reference.rope_tables(frequencies, 131072, np.dtype(np.float32))
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == sin.shape == (131072, 4)
    for position in (0, 1, 127, 131071):
        for i, theta in enumerate(frequencies.tolist()):
            # Half a unit in the last place of numbers up to 1, and the double's own 1e-11.
            assert abs(float(cos[position, i]) - math.cos(position * theta)) <= 2**-25 + 1e-10
            assert abs(float(sin[position, i]) - math.sin(position * theta)) <= 2**-25 + 1e-10


# -- Longer contexts -----------------------------------------------------------------------------

# Of d = 64, pairs 0, 8, 16, 24 and 31: what the functions of Transformers 5.23 return, in float32.
PAIRS = [0, 8, 16, 24, 31]
LONG = {
    "short_factors": tuple(1 + i / 64 for i in range(32)),
    "long_factors": tuple(1 + i / 2 for i in range(32)),
}


@pytest.mark.parametrize(
    ("scaling", "base", "num_positions", "frequencies", "factor"),
    [
        (
            RopeScaling("yarn", 4.0, original_context=32768), 1e6, 131072,
            [1.0, 0.0316227786, 0.000583333371, 7.90569356e-06, 3.84981632e-07],
            1.138629436111989,
        ),
        (
            RopeScaling("yarn", 40.0, original_context=4096, mscale=0.707, mscale_all_dim=1.0),
            1e4, 163840,
            [1.0, 0.100000001, 0.00550000044, 2.49999994e-05, 3.33380353e-06],
            0.9210423553163399,
        ),
        (
            RopeScaling(
                "yarn", 8.0, original_context=1024, beta_fast=16.0, beta_slow=2.0,
                truncate=False, attention_factor=1.25,
            ),
            1e4, 8192,
            [1.0, 0.100000001, 0.00124999997, 0.000125000006, 1.66690188e-05],
            1.25,
        ),
        (
            RopeScaling("dynamic", 2.0, original_context=2048), 1e4, 5000,
            [1.0, 0.0704631805, 0.00496505899, 0.000349853857, 3.43442152e-05],
            1.0,
        ),
        (
            RopeScaling("longrope", 4.0, original_context=4096, **LONG), 1e4, 5000,
            [1.0, 0.0199999996, 0.00111111114, 7.69230755e-05, 8.08194818e-06],
            1.0801234497346435,
        ),
        (
            RopeScaling("longrope", 4.0, original_context=4096, **LONG), 1e4, 4096,
            [1.0, 0.088888891, 0.00800000038, 0.000727272709, 8.98372309e-05],
            1.0801234497346435,
        ),
    ],
    ids=["yarn", "yarn, mscale", "yarn, not truncated", "dynamic", "longrope", "longrope, short"],
)  # fmt: skip
def test_each_scaling_is_that_of_transformers(scaling, base, num_positions, frequencies, factor):
    ours = reference.rope_frequencies(64, base, scaling, num_positions)
    # Theirs are a power, a product and a quotient of float32 each: a unit in the last place each.
    np.testing.assert_allclose(ours[PAIRS], frequencies, rtol=4 * 2.0**-23)
    assert reference.rope_attention_factor(scaling) == pytest.approx(factor, rel=1e-14)


def test_yarn_leaves_pairs_that_turn_often_and_divides_those_that_hardly_turn():
    scaling = RopeScaling("yarn", 16.0, original_context=4096)
    plain = reference.rope_frequencies(128, 10000.0, PLAIN)
    ratio = reference.rope_frequencies(128, 10000.0, scaling) / plain
    turns = 4096 * plain / (2 * math.pi)
    # The ramp begins at the last whole pair before 32 turns and ends at the first after 1 turn.
    begin, end = int((turns >= 32).sum()) - 1, int((turns > 1).sum())
    np.testing.assert_array_equal(ratio[: begin + 1], 1)
    np.testing.assert_allclose(ratio[end:], 1 / 16, rtol=1e-15)
    between = np.diff(ratio[begin : end + 1])
    np.testing.assert_allclose(between, (1 / 16 - 1) / (end - begin), rtol=1e-12)


def test_yarn_that_ramps_over_no_pair_is_a_step():
    scaling = RopeScaling("yarn", 2.0, original_context=64, beta_fast=32.0, beta_slow=16.0)
    ratio = reference.rope_frequencies(8, 10000.0, scaling) / reference.rope_frequencies(
        8, 10000.0, PLAIN
    )
    np.testing.assert_allclose(ratio, [1, 0.5, 0.5, 0.5])


def test_dynamic_scaling_begins_beyond_the_original_context_and_divides_the_slowest_pair_most():
    scaling = RopeScaling("dynamic", 2.0, original_context=1000)
    plain = reference.rope_frequencies(32, 10000.0, PLAIN)
    for short in (0, 1, 1000):
        same = reference.rope_frequencies(32, 10000.0, scaling, short)
        np.testing.assert_array_equal(same, plain)
    # At twice the context the base grows by (2 * 2 - 1)^(32/30): the last pair, which has the
    # base to the power of -30/32, turns at a third.
    ratio = reference.rope_frequencies(32, 10000.0, scaling, 2000) / plain
    assert ratio[0] == 1
    assert (np.diff(ratio) < 0).all()
    assert ratio[-1] == pytest.approx(1 / 3, rel=1e-14)
    # A single pair turns by 1 whatever the base.
    assert reference.rope_frequencies(2, 10000.0, scaling, 2000).tolist() == [1.0]


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "llama3"])
def test_other_scalings_leave_cosines_and_sines_as_large_as_they_are(kind):
    assert reference.rope_attention_factor(RopeScaling(kind, 4.0)) == 1


@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_no_longer_context_needs_no_sharper_attention(kind):
    assert reference.rope_attention_factor(RopeScaling(kind, 1.0, mscale=2.0)) == 1


def test_tables_are_multiplied_before_they_are_rounded():
    frequencies = reference.rope_frequencies(8, 10000.0, PLAIN)
    plain = reference.rope_tables(frequencies, 9, np.dtype(np.float64))
    larger = reference.rope_tables(frequencies, 9, np.dtype(np.float32), 1.138)
    for a, b in zip(plain, larger, strict=True):
        np.testing.assert_array_equal((1.138 * a).astype(np.float32), b)


# -- With what stands before and behind it -------------------------------------------------------


@pytest.mark.parametrize("normed", [(), ("q",), ("k",), ("q", "k")])
@pytest.mark.parametrize("turned", [True, False])
def test_in_one_call_is_one_after_another(normed, turned):
    rng = np.random.default_rng(0)
    N, H, G, D = 5, 4, 2, 8
    qkv = rng.normal(size=(N, (H + 2 * G) * D))
    q, k, v = (part.reshape(N, -1, D) for part in np.split(qkv, [H * D, (H + G) * D], axis=1))
    weights = {name: rng.normal(size=D) for name in normed}
    positions, slots = rng.integers(30, size=N), np.array([7, -1, 0, 11, 3])
    cos, sin = tables(D, 30) if turned else (None, None)
    caches = np.zeros((2, 3, 4, G, D))
    found = reference.rope_and_write_kv(
        qkv, positions, cos, sin, *caches, slots, weights.get("q"), weights.get("k"), 1e-5
    )
    q, k = (
        reference.rms_norm(x, weights[name], 1e-5) if name in weights else x
        for name, x in (("q", q), ("k", k))
    )
    if turned:
        q, k = (reference.rope(x, positions, cos, sin) for x in (q, k))
    np.testing.assert_array_equal(found, q)
    expected = np.zeros_like(caches).reshape(2, 12, G, D)
    for n, slot in enumerate(slots):
        if slot >= 0:
            expected[:, slot] = k[n], v[n]
    np.testing.assert_array_equal(caches.reshape(expected.shape), expected)
