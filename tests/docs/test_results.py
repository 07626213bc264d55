"""Records in docs/results: each says what made it, and of which commit; those named are there."""

import json
import math
import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
# Older than this format; tests/train holds the pages to it.
TRAINING = RESULTS / "storyteller_training.json"
RECORDS = sorted({*RESULTS.glob("*.json"), *RESULTS.glob("earlier/*.json")} - {TRAINING})
# Where a benchmark's name is not the beginning of its file's.
FILES_OF = {"eval": "storyteller_recall"}


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def history() -> None:
    """Skip where commits cannot be looked up."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository").stdout.strip()
    except OSError:
        pytest.skip("git is not installed")
    if shallow != "false":
        pytest.skip("this copy has no git history, or only its end")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_what_made_it(path):
    record = read(path)
    assert record["schema"] == 1
    assert record["command"][0] == "llm-numba"
    assert path.name.startswith(f"{FILES_OF.get(record['benchmark'], record['benchmark'])}_")
    assert datetime.fromisoformat(record["date"]).utcoffset() is not None
    assert record["environment"]["packages"]["numpy"]
    assert not record["environment"]["git"]["dirty"], "of a commit, not of somebody's changes"
    assert not [each for each in record["command"] if each.startswith("/")], "of one machine"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_of_a_commit_of_this_history(path, history):
    commit = read(path)["environment"]["git"]["commit"]
    assert re.fullmatch(r"[0-9a-f]{10,40}", commit)
    found = git("merge-base", "--is-ancestor", commit, "HEAD")
    assert found.returncode == 0, f"{commit}: {found.stderr}"


def test_measured_figures_are_finite_and_found_by_one_name():
    measured = [(path, each) for path in RECORDS for each in read(path).get("results", [])]
    measured = [(file, each) for file, each in measured if "median" in each]
    names = [(file, each["name"]) for file, each in measured]
    assert names
    assert len(set(names)) == len(names)
    for file, each in measured:
        figures = [each[name] for name in ("p10", "median", "p90") if name in each]
        assert all(map(math.isfinite, figures)), (file, each["name"])
        assert figures == sorted(figures), (file, each["name"])


def test_a_record_that_is_named_is_there():
    texts = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", *ROOT.glob("llm_numba/**/*.py")]
    named = {
        (path.name, name)
        for path in texts
        for name in re.findall(r"docs/results/(\w[\w.-]*\.json)", path.read_text())
    }
    assert named
    assert {each for each in named if not (RESULTS / each[1]).exists()} == set()
