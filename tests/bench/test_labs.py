"""What the labs' grader raced becomes a record."""

import json

import pytest
from typer.testing import CliRunner

from llm_numba.bench import labs
from llm_numba.cli.app import app

RACES = [
    {"lab": 3, "step": 4, "check": "fast", "version": "solution", "too_slow": False,
     "state": "passed",
     "message": "", "against": "m:f", "rounds": [[1.0, 1.0], [1.2, 1.0], [1.1, 1.0]], "bound": 1.3},
    {"lab": 3, "step": 4, "check": "fast", "version": "no_swizzle", "too_slow": True,
     "state": "failed",
     "message": "slow", "against": "m:f", "rounds": [[3.0, 1.0]], "bound": 1.3},
    {"lab": 3, "step": 4, "check": "fast", "version": "odd", "too_slow": False,
     "state": "failed",
     "message": "y is wrong."},
]  # fmt: skip
GRADED = [{"lab": 3, "title": "Transpose", "points": 9, "possible": 9, "passed": True,
           "not_run": [], "failed": []}]  # fmt: skip


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A clone whose grader writes what it is given."""

    def make(program):
        grader = tmp_path / "tutorials" / "labs" / "grader"
        grader.mkdir(parents=True)
        (grader / "__main__.py").write_text(program)
        monkeypatch.setattr(labs, "checkout", lambda: tmp_path)

    return make


def test_a_solution_should_stay_below_its_bound_and_a_slow_version_exceed_it():
    right, slow = labs.results_of(RACES)
    assert (right.name, right.at_most, right.meets_target) == ("lab03/solution", 1.3, True)
    assert right.statistic.median == pytest.approx(1.1)
    assert (slow.name, slow.at_least, slow.meets_target) == ("lab03/no_swizzle", 1.3, True)


def test_the_record_has_the_grades_and_what_did_not_come_to_a_race(checkout):
    written = json.dumps({"labs": GRADED, "races": RACES})
    checkout(f"import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write({written!r})")
    record = labs.record_of("3")
    assert record["benchmark"] == "labs"
    assert [each["name"] for each in record["results"]] == ["lab03/solution", "lab03/no_swizzle"]
    assert record["labs"] == GRADED
    assert record["left_out"] == {"lab03/odd": "y is wrong."}


def test_a_grader_that_cannot_is_an_error(checkout, tmp_path):
    checkout("raise SystemExit(2)")
    done = CliRunner().invoke(app, ["bench", "labs", "--out", str(tmp_path / "labs.json")])
    assert done.exit_code == 2
    assert not (tmp_path / "labs.json").exists()


def test_an_installed_package_has_no_labs(monkeypatch, tmp_path):
    monkeypatch.setattr(labs, "checkout", lambda: None)
    done = CliRunner().invoke(app, ["bench", "labs", "--out", str(tmp_path / "labs.json")])
    assert done.exit_code == 2
    assert "not in the installed package" in done.stderr
