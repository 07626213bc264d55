"""``llm-numba eval`` on a handful of stories: its table, its file, its comparison."""

import json

import pytest

from llm_numba.train.recall import RecallResult, evaluate_recall

FEW = ("--stories", 12, "--batch-size", 5)


@pytest.fixture
def model(tiny_checkpoint):
    """A random model whose context holds a story; it knows no answer."""
    return tiny_checkpoint(max_position_embeddings=4096)


def test_outcome_is_that_of_the_python_api(cli, model, tmp_path):
    from llm_numba import LLM

    result = cli.invoke("eval", "-m", model, *FEW, "--seed", 3, "--out", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    written = RecallResult.from_json(json.loads((tmp_path / "o.json").read_text()))
    assert written == evaluate_recall(LLM(model), 12, seed=3, batch_size=4)
    record = json.loads((tmp_path / "o.json").read_text())
    assert record["benchmark"] == "eval"
    assert record["environment"]["packages"]["numpy"]
    assert record["settings"]["dtype"] == "float32"
    assert record["settings"]["engine"]["enable_prefix_caching"] is True
    assert record["preemptions"] == 0
    for kind, (right, asked) in written.count_by_kind.items():
        row = next(line for line in result.stdout.splitlines() if line.startswith(f"{kind} "))
        assert row.split()[1:3] == [str(right), str(asked)]
    assert result.stdout.splitlines()[-1].split()[:3] == ["all", "0", "12"]


def test_comparison_is_paired(cli, model, tmp_path):
    path = tmp_path / "other.json"
    cli.invoke("eval", "-m", model, *FEW, "--out", path)
    outcome = json.loads(path.read_text())
    # The other one is given three right answers.
    outcome["correct"] = "111" + outcome["correct"][3:]
    outcome["wrong"] = outcome["wrong"][3:]
    path.write_text(json.dumps(outcome))
    out = tmp_path / "o.json"
    result = cli.invoke("eval", "-m", model, *FEW, "--compare", path, "--out", out)
    assert result.exit_code == 0, result.output
    assert "-25.00 percentage points" in result.stdout
    # Of three stories the other one's words are not known to be wrong any more.
    assert "0 right here only, 3 right there only, 3 in other words" in result.stdout
    assert "p = 0.25" in result.stdout
    assert json.loads(out.read_text())["compared"] == {
        "with": "other.json", "points": -25.0, "only_first": 3, "only_second": 0, "p_value": 0.25,
        "other_words": 3,
    }  # fmt: skip


def test_a_copy_without_git_says_by_itself_what_it_holds(cli, model, tmp_path):
    out = tmp_path / "o.json"
    cli.invoke("eval", "-m", model, *FEW, "--out", out, "--commit", "abc")
    assert json.loads(out.read_text())["environment"]["git"] == {"commit": "abc", "dirty": None}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"seed": 0, "correct": 5}'])
def test_file_that_is_no_outcome(cli, model, tmp_path, text):
    (tmp_path / "o.json").write_text(text)
    arguments = ("eval", "-m", model, *FEW, "--compare", tmp_path / "o.json")
    cli.refuses(*arguments, words=["o.json", "--out"])


def test_other_stories_cannot_be_compared(cli, model, tmp_path):
    cli.invoke("eval", "-m", model, *FEW, "--out", tmp_path / "o.json")
    arguments = ("eval", "-m", model, "--stories", 13, "--compare", tmp_path / "o.json")
    cli.refuses(*arguments, words=["12 stories", "--stories 12"])


def test_outcome_that_cannot_be_written_is_told_first(cli, model, tmp_path):
    cli.refuses("eval", "-m", model, "--out", tmp_path, words=[str(tmp_path), "cannot be written"])


def test_writing_on_changes_no_answer(cli, model, tmp_path):
    """A random model says nothing that is an answer; its first line is compared all the same."""
    outs = [tmp_path / name for name in ("short.json", "long.json")]
    cli.invoke("eval", "-m", model, *FEW, "--out", outs[0])
    result = cli.invoke("eval", "-m", model, *FEW, "--run-on", "--out", outs[1])
    assert result.exit_code == 0, result.output
    short, long = (json.loads(out.read_text()) for out in outs)
    assert long["wrong"] == short["wrong"]
    assert (short["settings"]["run_on"], long["settings"]["run_on"]) == (False, True)
