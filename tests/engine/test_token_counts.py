"""What penalties know of a sequence, against counting by hand."""

from collections import Counter

import numpy as np
import pytest

from llm_numba.engine.token_counts import NOTHING, TokenCounts, join


def as_dict(table: np.ndarray) -> dict[int, int]:
    tokens, counts = table.tolist()
    assert len(set(tokens)) == len(tokens)
    return dict(zip(tokens, counts, strict=True))


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 500])
@pytest.mark.parametrize("prompt", [[3], [5, 5, 9, 5], list(range(40))])
def test_tokens_are_counted_when_they_are_generated(prompt, num_tokens):
    answer = np.random.default_rng(0).integers(60, size=num_tokens).tolist()
    counts = TokenCounts(prompt)
    for token_id in answer:
        counts.add(token_id)
    assert as_dict(counts.table) == dict.fromkeys(prompt, 0) | Counter(answer)
    assert counts.table.dtype == np.int32


def test_a_batch_is_one_row_after_the_other():
    first, last = TokenCounts([7, 8, 7]), TokenCounts([9])
    first.add(8)
    tokens, counts, starts = join([first, NOTHING, last])
    assert tokens.tolist() == [7, 8, 9]
    assert counts.tolist() == [0, 1, 0]
    assert starts.tolist() == [0, 2, 2, 3]
    assert starts.dtype == tokens.dtype == counts.dtype == np.int32
