"""Operands for attention, and how far from the truth rounding alone may lead.

In units u of float32. A score, a sum of D products, is off by (D + 8) u times its absolute terms:
the products and additions, the scale and its rounding, and the subtraction of the maximum. So is
the exponent, and so, relatively, the power. A change of the maximum multiplies all before by a
factor as good as a power; there may be one for each 16 keys. The powers and their products with
values are added up, T of them. Numerator and denominator have all of this. What is stored is
rounded once more.

Tensor cores take powers rounded to what is stored, of which the largest is 1; and they cut off
where a sum would be rounded.
"""

import math

import ml_dtypes
import numpy as np

from llm_numba import reference

U = 2.0**-24


def operands(S, T, H, G, D, dtype="float32", seed=0):
    """Make q [S, H, D], k and v [T, G, D]."""
    rng = np.random.default_rng([S, T, H, G, D, seed])
    return [rng.normal(size=shape).astype(dtype) for shape in ((S, H, D), (T, G, D), (T, G, D))]


def bound(q, k, v, scale, truth, dtype, tensor=False):
    """Return the error that each number of attention over these keys may have."""
    D, T, u = q.shape[2], len(k), 2 * U if tensor else U
    terms = np.einsum(
        "shd,thd->hst", np.abs(q), np.abs(k.repeat(q.shape[1] // k.shape[1], 1)), optimize=True
    )
    worst = (D + 8) * u * abs(scale) * terms.max(initial=0)
    stored = ml_dtypes.finfo(dtype)
    relative = 4 * worst + (2 * T + 12 * math.ceil(T / 16) + 20) * u
    if tensor:
        relative += float(stored.eps) / 2 + T * float(stored.smallest_subnormal) / 2
    rounding = float(stored.eps) / 2 * np.abs(truth) + float(stored.smallest_subnormal)
    return relative * np.abs(v).max(initial=0) + rounding


def assert_near(y, q, k, v, scale, window=None, tensor=False):
    """Assert that y is the attention of q over k and v, to that bound."""
    assert (y.dtype, y.shape) == (q.dtype, q.shape)
    exact = [array.astype(np.float64) for array in (q, k, v)]
    truth = reference.causal_attention(*exact, scale, window)
    error = np.abs(y.astype(np.float64) - truth)
    allowed = bound(*exact, scale, truth, y.dtype, tensor)
    assert (error <= allowed).all(), (error / allowed).max()


class Batch:
    """Sequences whose keys and values are scattered over the blocks of a cache.

    Whatever no sequence owns is poison: NaN in slots of no token and in blocks of nobody, and
    numbers of blocks that do not exist where a block table has room to spare.
    """

    def __init__(self, queries, contexts, H, G, D, block_size=4, dtype="float32", seed=0):
        rng = np.random.default_rng([*queries, *contexts, H, G, D, seed])
        self.queries, self.contexts, self.block_size = queries, contexts, block_size
        self.keys = [rng.normal(size=(T, G, D)).astype(dtype) for T in contexts]
        self.values = [rng.normal(size=(T, G, D)).astype(dtype) for T in contexts]
        self.q = rng.normal(size=(sum(queries), H, D)).astype(dtype)
        blocks = [math.ceil(T / block_size) for T in contexts]
        free = iter(rng.permutation(sum(blocks) + 3).astype(np.int32))
        self.block_tables = np.full((len(queries), max(blocks, default=0) + 1), 2**30, np.int32)
        self.caches = np.full((2, sum(blocks) + 3, block_size, G, D), np.nan).astype(dtype)
        for b, count in enumerate(blocks):
            self.block_tables[b, :count] = [next(free) for _ in range(count)]
            slots = self.slots(b)
            for cache, rows in zip(self.caches, (self.keys[b], self.values[b]), strict=True):
                cache.reshape(-1, G, D)[slots] = rows
        self.query_starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)

    def slots(self, b):
        """Return the slots of a sequence's tokens, in order."""
        position = np.arange(self.contexts[b])
        block = self.block_tables[b, position // self.block_size]
        return block * self.block_size + position % self.block_size

    @property
    def arrays(self):
        """Return what a launcher takes before the scale."""
        context_lens = np.array(self.contexts, np.int32)
        return self.q, *self.caches, self.block_tables, self.query_starts, context_lens

    def assert_near(self, y, scale, window=None, tensor=False):
        """Assert that y is right for each sequence."""
        for b, start in enumerate(self.query_starts[:-1]):
            rows = slice(start, self.query_starts[b + 1])
            given = self.q[rows], self.keys[b], self.values[b]
            assert_near(y[rows], *given, scale, window, tensor)
