"""``llm-numba bench ranks`` and ``bench multi``: what is timed, and what there is time for."""

import itertools
import os

import pytest
from typer.testing import CliRunner

from llm_numba.bench.multi import Case, cases, run
from llm_numba.bench.ranks import RankSettings, measure
from llm_numba.cli.app import app
from llm_numba.models import load_config
from llm_numba.models.random import resolve_shape
from llm_numba.parallel import Mesh, run_ranks


def test_a_step_a_prompt_and_a_load_are_timed_on_rank_0(tiny_dir):
    settings = RankSettings(
        str(tiny_dir), "cpu", tp=2, batches=(1, 3), context=4, steps=5, warmup=2, prompt=20,
        repeats=2, requests=3, request_prompt=6, new_tokens=4,
    )  # fmt: skip

    first, other = run_ranks(2, lambda world: list(measure(Mesh(2, world=world), settings)))
    assert other == []
    names = [result.name for result in first]
    split = "tp=2/pp=1/threads"
    steps = [f"decode/{split}/batch={batch}" for batch in (1, 3)]
    assert names == [*steps, f"prefill/{split}/tokens=20", f"load/{split}/requests=3"]
    assert [result.statistic.n for result in first] == [5, 5, 2, 2]
    assert first[1].shape["tokens_per_second"] > 0


@pytest.mark.parametrize("num_gpus", [0, 2, 4, 8])
def test_all_cases_are_commands_that_there_are(num_gpus):
    found = cases(num_gpus)
    assert max(case.ranks for case in found) == max(2, num_gpus)
    for case in found:
        command, options = case.arguments[:2], case.arguments[2:]
        told = CliRunner().invoke(app, [*command, "--help"]).output
        assert all(option in told for option in options if option.startswith("--")), case.title
        split = dict(itertools.pairwise(options))
        if command == ("bench", "ranks"):
            assert int(split.get("--tp", 1)) * int(split.get("--pp", 1)) == case.ranks


def test_models_have_positions_for_what_is_timed_by_default():
    for shape in ("llama-3-8b", "llama-3-70b"):
        config = load_config(resolve_shape(shape))
        assert RankSettings(shape).options()["max_model_len"] <= config.longest_context


def test_a_case_for_which_there_is_no_time_is_not_begun():
    ticks = iter([0, 0, 60, 60, 60, 60])
    wanted = [Case(1, ("--version",), 60), Case(1, ("--version",), 50)]
    first, second = run(wanted, "mpirun", 100, os.environ, lambda: next(ticks))
    assert (first.problem, first.seconds) == ("", 60)
    assert second.problem == "it may take 50 s, and 40 s are left"


def test_what_a_case_says_last_is_told_and_the_next_one_runs():
    wanted = [
        Case(1, ("bench", "ranks", "--model", "nowhere/to be found", "--device", "cpu"), 60),
        Case(1, ("--version",), 60),
    ]
    first, second = run(wanted, "mpirun", 1000, os.environ)
    assert first.problem.startswith("Error")
    assert second.problem == ""


def test_a_case_that_does_not_end_is_ended():
    # No interpreter has come so far in this time.
    (outcome,) = run([Case(1, ("--version",), 1e-3)], "mpirun", 1000, os.environ)
    assert outcome.problem == "it did not end within 0 s"
