"""Timelines of a pipeline: what is measured, and what is made of it."""

import pytest

from llm_numba.bench.pipeline import PipelineSettings, measure
from llm_numba.engine.timeline import Stretch, bubble_of, ideal_bubble
from llm_numba.parallel import Mesh, run_ranks


@pytest.mark.parametrize(("pieces", "stages"), [(1, 4), (6, 4), (12, 4), (3, 1)])
def test_equal_pieces_on_equal_stages_leave_the_bubble_of_the_formula(pieces, stages):
    """Each stage begins a piece when the stage before has done it, a slot of 1 s each."""
    stretches = [
        Stretch(stage, piece, 10, 100.0 + stage + piece, 101.0 + stage + piece)
        for stage in range(stages)
        for piece in range(pieces)
    ]
    assert bubble_of(stretches, stages) == pytest.approx(ideal_bubble(pieces, stages))


def test_each_case_gives_every_stage_its_steps_in_order(tiny_checkpoint):
    directory = tiny_checkpoint(num_hidden_layers=4)
    settings = PipelineSettings(
        2,
        str(directory),
        prompt_tokens=24,
        pieces=(1, 3),
        sequences=(1, 5),
        new_tokens=4,
        repeats=3,
        warmup=1,
    )
    found = run_ranks(2, lambda world: list(measure(Mesh(pp=2, world=world), settings)))[0]
    names = ["prefill/pieces=1", "prefill/pieces=3", "decode/sequences=1", "decode/sequences=5"]
    assert [case.result.name for case in found] == names
    # Tokens of each step: pieces of the prompt; then all sequences together, or in two groups.
    tokens = [[24], [8, 8, 8], [1, 1, 1], [3, 2, 3, 2, 3, 2]]
    for case, expected in zip(found, tokens, strict=True):
        rows = case.to_json()
        assert min(begin for *_, begin, _ in rows) == 0
        for stage in range(2):
            own = [row for row in rows if row[0] == stage]
            assert [row[1] for row in own] == list(range(len(expected)))
            assert [row[2] for row in own] == expected
            assert all(end >= begin for *_, begin, end in own)
        for first, second in zip(rows[: len(expected)], rows[len(expected) :], strict=True):
            assert first[3] <= second[3], "no stage begins before the one in front of it"
        assert case.result.statistic.n == 3
        assert 0 < case.result.statistic.p10 < 100
    assert [case.result.shape["ideal"] for case in found[:3]] == [50.0, 25.0, 50.0]
