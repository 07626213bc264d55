"""What the tests of matrix products share: operands, and how near a result must be.

Bound. A sum of K products in float32, in whatever order, is off by at most about K u times the sum
of the products' magnitudes, with u = 2^-24 (Higham, "Accuracy and Stability of Numerical
Algorithms", 3.1); tensor cores cut off where others round, so their u is twice that. What is stored
is rounded once more: half an eps of the storage format. An epilogue of functions of slope at most
1.13 (GELU's) passes the error on and adds a few u.
"""

import ml_dtypes
import numpy as np

from llm_numba import reference

U = 2.0**-24


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(list(shape)).normal(size=shape).astype(dtype)


def exact(array):
    return None if array is None else array.astype(np.float64)


def assert_near(y, x, weight, bias=None, activation=None, residual=None, stored=None, u=U, own=0):
    """Assert that y is the linear layer of x, to the bound above; own is the activation's error."""
    truth = reference.linear(
        exact(x), exact(weight), exact(bias), activation=activation, residual=exact(residual)
    )
    magnitudes = np.abs(exact(x)) @ np.abs(exact(weight)).T
    if bias is not None:
        magnitudes += np.abs(exact(bias))
    bound = 1.13 * (x.shape[1] + 1) * u * magnitudes
    if activation is not None:
        before = truth if residual is None else truth - exact(residual)
        bound += 8 * u * (1 + magnitudes) + own * np.abs(before)
    if residual is not None:
        bound += U * np.abs(truth)
    assert_within(bound, y, truth, stored or x.dtype)


def assert_gated(y, x, weight, bias=None, residual=None, stored=None, u=U):
    """Assert that y is SiLU(gate) * up + residual.

    SiLU has slopes up to 1.1, so an error d of gate and of up comes out as 1.1 d |up| + |gate| d
    at most; the functions add a few u of the product.
    """
    options = {"activation": "silu_mul", "residual": exact(residual)}
    truth = reference.linear(exact(x), exact(weight), exact(bias), **options)
    magnitudes = np.abs(exact(x)) @ np.abs(exact(weight)).T
    if bias is not None:
        magnitudes += np.abs(exact(bias))
    gate, up = np.split(magnitudes, 2, axis=1)
    bound = (2.1 * (x.shape[1] + 1) + 8) * u * (1 + gate) * up
    if residual is not None:
        bound += U * np.abs(truth)
    assert_within(bound, y, truth, stored or x.dtype)


def assert_within(bound, y, truth, stored):
    """Assert that y, rounded to what is stored, was within a bound of the truth."""
    assert y.dtype == stored
    form = ml_dtypes.finfo(y.dtype)
    bound = bound + float(form.eps) / 2 * np.abs(truth) + float(form.smallest_subnormal)
    error = np.abs(exact(y) - truth)
    assert (error <= bound).all(), (error / bound).max()
