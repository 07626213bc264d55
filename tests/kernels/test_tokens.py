"""Tokens that a step takes from the step before."""

import numpy as np
import pytest

from llm_numba import ops, reference
from llm_numba.errors import KernelArgumentError
from llm_numba.runtime import to_device, to_host


@pytest.mark.parametrize("length", [1, 5, 128, 300])
def test_gaps_are_filled_and_given_tokens_stay(device, length):
    """No source of a given token is looked at, however far out."""
    rng = np.random.default_rng(length)
    tokens = rng.integers(-1, 3, length).astype(np.int32)
    sampled = rng.integers(1000, size=7)
    sources = np.where(tokens < 0, rng.integers(7, size=length), 10**9).astype(np.int32)
    arrays = (tokens, sources, sampled)
    filled = to_host(ops.fill_in_tokens(*(to_device(array, device) for array in arrays)))
    expected = reference.fill_in_tokens(*arrays)
    assert expected.tolist() == [
        sampled[source] if token < 0 else token
        for token, source in zip(tokens.tolist(), sources.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(filled, expected)
    assert filled.dtype == expected.dtype == np.int32


def test_tokens_of_another_format_are_refused():
    tokens = to_device(np.zeros(3, np.int64), "sim")
    with pytest.raises(KernelArgumentError, match="'token_ids'"):
        ops.fill_in_tokens(tokens, tokens, tokens)
