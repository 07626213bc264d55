"""Products of few rows, and how far from the truth rounding alone may lead.

A sum of K products in float32, in whatever order, is off by at most about K u times the sum
of the products' magnitudes, with u = 2^-24 (Higham, "Accuracy and Stability of Numerical
Algorithms", 3.1). A tensor core adds 17 numbers at a time and cuts each off, by 2 u of the largest
at most: that makes 34 u for 16 numbers, or 17/8 K u. A norm before it rounds each product once
more, or to two bfloat16 with an error of 2^-16; and its factor comes of a sum of K squares under a
root, which halves the error: another K u / 2, and a few u in all. What follows has slopes of at
most 1.13 (GELU's), and what is stored is rounded once more, by half an eps.
"""

import ml_dtypes
import numpy as np

from llm_numba import reference
from llm_numba.kernels.gemv import LADDER, gemv
from llm_numba.runtime import to_device, to_host

STEPS = [step.name for step in LADDER.steps]
U = 2.0**-24


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


def exact(array):
    return None if array is None else array.astype(np.float64)


def run(x, weight, bias=None, *, device, residual=None, norm_weight=None, **kwargs):
    def place(each):
        return None if each is None else to_device(each, device)

    operands = {"residual": place(residual), "norm_weight": place(norm_weight)}
    return to_host(gemv(place(x), place(weight), place(bias), **operands, **kwargs))


def assert_near(
    y, x, weight, bias=None, *, activation=None, residual=None, norm_weight=None, eps=0.0,
    step=STEPS[-1],
):  # fmt: skip
    """Assert that y is the linear layer of x, to the bound above."""
    may_be_tensor = step == "tensor" and x.itemsize == 2
    of_sums, of_products = (17 / 8, 2.0**-16) if may_be_tensor else (1, 0)
    x, weight, bias, residual, gain = map(exact, (x, weight, bias, residual, norm_weight))
    options = {"activation": activation, "residual": residual}
    truth = reference.linear(x, weight, bias, norm_weight=gain, eps=eps, **options)
    if gain is not None:
        x = reference.rms_norm(x, gain, eps)
    shift = 0 if bias is None else bias
    product, magnitudes = x @ weight.T + shift, np.abs(x) @ np.abs(weight).T + np.abs(shift)
    bound = (((of_sums + 0.5) * x.shape[1] + 8) * U + of_products) * magnitudes
    if activation == "silu_mul":
        of_gate, of_up = np.split(bound, 2, axis=1)
        gate, up = np.split(product, 2, axis=1)
        gate = reference.silu(gate)
        of_gate = 1.1 * of_gate + 8 * U * np.abs(gate)
        bound = of_gate * (np.abs(up) + of_up) + np.abs(gate) * of_up
    elif activation is not None:
        bound = 1.13 * bound + 8 * U * (1 + magnitudes)
    stored = ml_dtypes.finfo(y.dtype)
    bound += (2 * U + float(stored.eps) / 2) * np.abs(truth) + float(stored.smallest_subnormal)
    if residual is not None:
        bound += U * np.abs(residual)
    error = np.abs(exact(y) - truth)
    assert (error <= bound).all(), (error / bound).max()
