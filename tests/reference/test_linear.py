"""The linear layer against sums written out term by term and added exactly (`math.fsum`).

The bound on a sum of K products is the textbook one, whatever the order of the additions:
(K + 2) u times the sum of the absolute terms, with u half the spacing of the numbers at 1 and 2
for the bias and the final rounding (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1).
An activation has a slope of at most 1.13 and adds its own rounding.
"""

import math

import numpy as np
import pytest

from llm_numba import reference

ACTIVATIONS = {
    None: lambda v: v,
    "gelu": lambda v: v * math.erfc(-v / math.sqrt(2)) / 2,
    "gelu_tanh": lambda v: v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1 + math.exp(-v)),
}
SHAPES = [(1, 1, 1), (1, 127, 33), (31, 257, 3), (33, 31, 1), (5, 0, 4), (0, 7, 3), (2, 2, 127)]


def operands(M, K, N, dtype):
    rng = np.random.default_rng([M, K, N])
    shapes = [(M, K), (N, K), (N,), (M, N)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("M", "K", "N"), SHAPES)
def test_every_number_is_its_sum_of_products(M, K, N, activation, dtype):
    x, weight, bias, residual = operands(M, K, N, dtype)
    y = reference.linear(x, weight, bias, activation=activation, residual=residual)
    assert y.shape == (M, N)
    assert y.dtype == dtype
    u = float(np.finfo(dtype).eps) / 2
    act = ACTIVATIONS[activation]
    rows, columns = x.astype(float).tolist(), weight.astype(float).tolist()
    for m, row in enumerate(rows):
        for n, column in enumerate(columns):
            terms = [a * b for a, b in zip(row, column, strict=True)] + [float(bias[n])]
            truth = act(math.fsum(terms)) + float(residual[m, n])
            of_sum = (K + 2) * u * math.fsum(map(abs, terms))
            of_rest = 8 * u * (abs(math.fsum(terms)) + abs(residual[m, n]))
            assert abs(y[m, n] - truth) <= 1.13 * of_sum + of_rest


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("M", "F"), [(1, 1), (3, 5), (2, 0)])
def test_the_first_half_of_the_columns_gates_the_second(M, F, bias):
    x, weight, shift, _ = operands(M, 7, 2 * F, np.float64)
    residual = np.random.default_rng(1).normal(size=(M, F))
    gate, up = x @ weight[:F].T + bias * shift[:F], x @ weight[F:].T + bias * shift[F:]
    shift = shift if bias else None
    y = reference.linear(x, weight, shift, activation="silu_mul", residual=residual)
    np.testing.assert_allclose(y, reference.silu(gate) * up + residual, rtol=1e-12, atol=1e-14)
    assert y.shape == (M, F)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 2.0])
def test_a_norm_comes_first_and_is_not_rounded(eps):
    x, weight, bias, _ = operands(3, 7, 4, np.float64)
    gain = np.random.default_rng(2).normal(size=7)
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * gain
    y = reference.linear(x, weight, bias, norm_weight=gain, eps=eps)
    np.testing.assert_allclose(y, normed @ weight.T + bias, rtol=1e-12, atol=1e-14)


def test_the_result_may_be_asked_for_in_another_dtype():
    x, weight, bias, residual = operands(3, 7, 4, np.float32)
    exact = reference.linear(x, weight, bias, residual=residual)
    for dtype in ("float16", "float32", "float64"):
        y = reference.linear(x, weight, bias, residual=residual, out_dtype=dtype)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, exact.astype(dtype))


@pytest.mark.parametrize("M", [1, 3])
def test_bias_activation_and_residual_are_optional_and_come_in_this_order(M):
    x, weight, bias, residual = operands(M, 5, 4, np.float64)
    product = x @ weight.T
    close = {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(reference.linear(x, weight), product, **close)
    np.testing.assert_allclose(reference.linear(x, weight, bias), product + bias, **close)
    np.testing.assert_allclose(
        reference.linear(x, weight, activation="silu"), reference.silu(product), **close
    )
    np.testing.assert_allclose(
        reference.linear(x, weight, bias, activation="gelu", residual=residual),
        reference.gelu(product + bias) + residual,
        **close,
    )


@pytest.mark.parametrize(("M", "N"), [(1, 4), (3, 1), (3, 4)])
def test_no_operand_is_written_to(M, N):
    operand = operands(M, 5, N, np.float64)
    before = [array.copy() for array in operand]
    x, weight, bias, residual = operand
    reference.linear(x, weight, bias, residual=residual)[:] = 0
    for array, copy in zip(operand, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_rows_of_the_result_lie_one_behind_the_other():
    x, weight, *_ = operands(3, 5, 4, np.float32)
    assert reference.linear(x, weight).flags.c_contiguous


def test_an_infinite_weight_spoils_its_own_column_only():
    x, weight = np.ones((2, 3)), np.ones((4, 3))
    weight[1, 2] = np.inf
    assert reference.linear(x, weight).tolist() == [[3, np.inf, 3, 3]] * 2


def test_an_unknown_activation_is_an_error():
    with pytest.raises(KeyError):
        reference.linear(np.ones((1, 1)), np.ones((1, 1)), activation="relu")
