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
