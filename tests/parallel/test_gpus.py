"""Which GPU each rank takes, from what each sees."""

import pytest

from llm_numba.errors import ParallelError
from llm_numba.parallel.gpus import Sight, hidden_gpu, share_gpus


def seen(*rows):
    """Ranks, each a host and the GPUs that it sees: ``"a:12"``."""
    return [Sight(host, tuple(gpus)) for host, gpus in (row.split(":") for row in rows)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a:12", "a:12"], "12"),
        (["a:1234"] * 3, "123"),
        # Two hosts; ranks that are not in the order of hosts.
        (["a:12", "b:34", "a:12", "b:34"], "1324"),
        # A batch system that shows each its own, and one that turns the list.
        (["a:1", "a:2"], "12"),
        (["a:12", "a:21"], "12"),
    ],
)
def test_each_rank_takes_the_first_gpu_that_is_free(rows, expected):
    assert share_gpus(seen(*rows)) == list(expected)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a:12"] * 3, "3 ranks run on a, which shows them 2 GPUs; each"),
        (["a:1", "b:2", "b:2"], "2 ranks run on b, which shows them 1 GPU; each"),
        (["a:1", "a:"], "2 ranks run on a, which shows them 1 GPU; each"),
    ],
)
def test_more_ranks_than_gpus_are_refused(rows, words):
    with pytest.raises(ParallelError, match=words):
        share_gpus(seen(*rows))


@pytest.mark.parametrize(
    ("rows", "members", "words"),
    [
        (["a:12", "a:12"], [0, 1], ""),
        (["a:12", "a:12", "b:34"], [0, 1], ""),
        (["a:12", "a:12", "b:34"], [0, 2], "ranks 0 and 2 run on different hosts"),
        (["a:1", "a:2"], [0, 1], "rank 0 does not see the GPU of rank 1"),
        (["a:12", "a:2"], [0, 1], "rank 1 does not see the GPU of rank 0"),
    ],
)
def test_ranks_that_cannot_reach_each_other_s_memory_are_told_why(rows, members, words):
    views = seen(*rows)
    found = hidden_gpu(views, share_gpus(views), members)
    assert found.startswith(words) if words else found == ""
