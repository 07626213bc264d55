"""Numbers in a kernel wrap, round and convert as their types on the hardware do."""

import numpy as np
import pytest
from numba import cuda
from numba.cuda import float32, int8, int32, uint8, uint32

from llm_numba.simulator import simulate

EDGES = {
    np.int8: [-128, -1, 0, 1, 127],
    np.int32: [-(2**31), -7, -1, 0, 1, 3, 2**31 - 1],
    np.int64: [-(2**63), -7, -1, 0, 1, 3, 2**63 - 1],
    np.uint8: [0, 1, 7, 255],
    np.uint32: [0, 1, 7, 2**32 - 1],
    np.uint64: [0, 1, 7, 2**63, 2**64 - 1],
}


def wrapped(value: int, dtype: np.dtype) -> int:
    """Keep the lowest bits of a whole number."""
    info = np.iinfo(dtype)
    return (value - info.min) % (info.max - info.min + 1) + info.min


def run(kernel, out, *args) -> np.ndarray:
    simulate(kernel, 1, max(len(out), 1), (out, *args))
    return out


def pairs(one, other):
    left, right = np.meshgrid(np.array(EDGES[one], one), np.array(EDGES[other], other))
    return left.ravel(), right.ravel()


@cuda.jit
def combine(out, x, y):
    i = cuda.grid(1)
    out[i, 0] = x[i] + y[i]
    out[i, 1] = x[i] - y[i]
    out[i, 2] = x[i] * y[i]
    out[i, 3] = x[i] ^ y[i]


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        (np.int8, np.int8, np.int64),
        (np.int32, np.int32, np.int64),
        (np.uint8, np.uint32, np.uint64),
        (np.uint64, np.uint64, np.uint64),
        (np.int64, np.uint64, np.int64),
        (np.int32, np.uint64, np.int64),
    ],
)
def test_integers_of_any_two_types_meet_in_64_bits_and_wrap_there(one, other, result):
    x, y = pairs(one, other)
    got = run(combine, np.zeros((len(x), 4), result), x, y)
    for row, a, b in zip(got.tolist(), x.tolist(), y.tolist(), strict=True):
        assert row == [wrapped(value, result) for value in (a + b, a - b, a * b, a ^ b)]


@cuda.jit
def divide(out, x, y):
    i = cuda.grid(1)
    out[i, 0] = x[i] // y[i]
    out[i, 1] = x[i] % y[i]


def test_division_rounds_down_and_has_a_result_where_there_is_none():
    x, y = pairs(np.int64, np.int64)
    got = run(divide, np.zeros((len(x), 2), np.int64), x, y)
    for row, a, b in zip(got.tolist(), x.tolist(), y.tolist(), strict=True):
        lost = b == 0 or (a == -(2**63) and b == -1)
        assert row == ([0, 0] if lost else [a // b, a % b])


def test_narrow_integers_add_up_in_64_bits():
    @cuda.jit
    def double(out, x):
        out[0] = x[0] + x[0]

    x = np.array([2**31 - 1], np.int32)
    assert run(double, np.zeros(1, np.int64), x)[0] == 2**32 - 2


def test_a_float_literal_makes_float64_of_float32():
    @cuda.jit
    def thirds(drifted, kept, x):
        i = cuda.grid(1)
        drifted[i] = x[i] * 0.1
        kept[i] = x[i] * float32(0.1)

    x = np.arange(1, 9, dtype=np.float32)
    drifted, kept = np.zeros(8), np.zeros(8)
    simulate(thirds, 1, 8, (drifted, kept, x))
    np.testing.assert_array_equal(drifted, x.astype(np.float64) * 0.1)
    np.testing.assert_array_equal(kept, (x * np.float32(0.1)).astype(np.float64))
    assert (drifted != kept).any()


@cuda.jit
def convert(out, x):
    i = cuda.grid(1)
    out[i, 0] = int32(x[i])
    out[i, 1] = uint32(x[i])
    out[i, 2] = int8(x[i])
    out[i, 3] = uint8(x[i])


def test_floats_saturate_at_32_bits_and_wrap_from_16_to_8():
    x = np.array([1.9, -1.9, 300, 3e9, -3e9, np.inf, -np.inf], np.float32)
    want = [
        [1, 1, 1, 1],
        [-1, 0, -1, 0],
        [300, 300, 44, 44],
        [2**31 - 1, 3 * 10**9, -1, 255],
        [-(2**31), 0, 0, 0],
        [2**31 - 1, 2**32 - 1, -1, 255],
        [-(2**31), 0, 0, 0],
    ]
    assert run(convert, np.zeros((7, 4), np.int64), x).tolist() == want


def test_nan_is_zero_of_float32_and_the_sign_alone_of_float64():
    nan = np.array([np.nan])
    single = run(convert, np.zeros((1, 4), np.int64), nan.astype(np.float32))
    double = run(convert, np.zeros((1, 4), np.int64), nan)
    assert single.tolist() == [[0, 0, 0, 0]]
    assert double.tolist() == [[-(2**31), 2**31, 0, 0]]


def test_a_product_and_its_sum_round_once():
    @cuda.jit
    def fused(out, a, b, c):
        i = cuda.grid(1)
        out[i] = a[i] * b[i] + c[i]

    tiny = np.float32(2.0**-12)
    a = np.array([1 + tiny], np.float32)
    c = np.array([-1 - 2 * tiny], np.float32)
    got = run(fused, np.zeros(1, np.float32), a, a, c)
    assert got[0] == np.float32(2.0**-24)
    assert a[0] * a[0] + c[0] == 0
