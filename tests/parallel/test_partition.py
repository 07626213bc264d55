"""Who gets what: shares of heads and tokens, and stages that are balanced."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_numba.errors import ParallelError
from llm_numba.models import load_config, resolve_model, tensor_shapes
from llm_numba.models.shares import layer_weights
from llm_numba.parallel import Alone, Partition, Seat, balanced_stages


def seat(rank: int, size: int) -> Partition:
    return Partition(Seat(rank, size), range(3), 3)


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_are_everything_once_and_as_even_as_can_be(count, ranks):
    shares = [seat(rank, ranks).share(count) for rank in range(ranks)]
    assert list(itertools.chain(*shares)) == list(range(count))
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) <= 1
    assert seat(0, ranks).shares(count) == shares


@pytest.mark.parametrize(
    ("count", "ranks", "expected"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (2, 2, [[0], [1]]),
        (2, 4, [[0], [0], [1], [1]]),
        (1, 3, [[0], [0], [0]]),
    ],
)
def test_fewer_things_than_ranks_are_copied(count, ranks, expected):
    assert [list(seat(rank, ranks).share_or_copy(count)) for rank in range(ranks)] == expected


def test_the_whole_is_the_first_stage_and_the_last():
    whole = Partition.whole(SimpleNamespace(num_layers=5))
    assert (whole.is_first, whole.is_last, whole.tensor.size) == (True, True, 1)
    ends = [Partition(Alone(), layers, 5) for layers in (range(2), range(2, 4), range(4, 5))]
    assert [each.is_first for each in ends] == [True, False, False]
    assert [each.is_last for each in ends] == [False, False, True]


# -- Stages -------------------------------------------------------------------------------------


def divisions(count: int, stages: int):
    for ends in itertools.combinations(range(1, count), stages - 1):
        yield list(map(range, (0, *ends), (*ends, count)))


def loads(weights, stages):
    return [sum(weights[i] for i in stage) for stage in stages]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
def test_no_division_has_a_lighter_heaviest_stage(weights, data):
    num_stages = data.draw(st.integers(1, len(weights)))
    stages = balanced_stages(weights, num_stages)
    assert list(itertools.chain(*stages)) == list(range(len(weights)))
    assert len(stages) == num_stages
    assert min(map(len, stages)) >= 1
    best = min(max(loads(weights, each)) for each in divisions(len(weights), num_stages))
    assert max(loads(weights, stages)) == best


@pytest.mark.parametrize("weights", [[1] * 7 + [6], [6] + [1] * 7])
def test_one_heavy_stage_leaves_the_others_balanced(weights):
    """An end weighs as much as six layers: the seven others are 3, 2 and 2."""
    assert sorted(loads(weights, balanced_stages(weights, 4)), reverse=True) == [6, 3, 2, 2]


@pytest.mark.parametrize("num_stages", [0, 4, -1])
def test_stages_without_a_layer_are_refused(num_stages):
    with pytest.raises(ParallelError, match=f"3 layers .* among {num_stages} pipeline stages"):
        balanced_stages([1, 1, 1], num_stages)


def test_an_embedding_counts_where_it_is_needed():
    config = load_config(resolve_model("random:llama-3.2-1b"))
    weights = layer_weights(config)
    V, E, L = config.vocab_size, config.hidden_size, config.num_layers
    assert len(weights) == L
    assert len(set(weights[1:-1])) == 1
    # Tied: on both ends, and the final norm on the last.
    assert (weights[0] - weights[1], weights[-1] - weights[1]) == (V * E, V * E + E)
    everything = sum(
        shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in tensor_shapes(config).values()
    )
    assert sum(weights) == everything + V * E


def test_seventy_billion_in_four_stages():
    """80 layers of 0.86 billion, and 1.05 billion on each end: the ends have a layer less."""
    weights = layer_weights(load_config(resolve_model("random:llama-3-70b")))
    stages = balanced_stages(weights, 4)
    assert [len(stage) for stage in stages] == [19, 21, 21, 19]
    assert max(loads(weights, stages)) / min(loads(weights, stages)) < 1.05
