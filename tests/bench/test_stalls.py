"""What warps wait for, out of a table as Nsight Compute writes it."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from llm_numba.bench import ncu, stalls
from llm_numba.bench.gemm_points import Product
from llm_numba.cli.app import app

SMALL = (
    Product("stalls", 40, 24, 16),
    Product("stalls", 24, 24, 32, ways=("linear", "residual")),
)
WAIT, BARRIER = map(stalls.stall_metric, ("wait", "barrier"))
FIRST, SECOND, _ = stalls.SHARES["tensor cores"]


def expected(name: str, kernel: str, grid: int) -> dict:
    return {"name": name, "kernel": kernel, "shape": {"M": 8}, "grid": [grid], "block": [64]}


LAUNCHES = [expected("linear/a", "gemm_small", 3), expected("residual/a", "gemm_large", 5)]


def written(*rows: tuple[str, int, dict[str, str]]) -> str:
    """The table of some launches, with metrics of theirs."""
    names = list(dict.fromkeys(name for *_, metrics in rows for name in metrics))
    file = io.StringIO()
    table = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(["ID", "Kernel Name", "Grid Size", "Block Size", *names])
    for number, (kernel, grid, metrics) in enumerate(rows):
        cells = [metrics.get(name, "") for name in names]
        table.writerow([number, kernel, f"({grid}, 1, 1)", "(64, 1, 1)", *cells])
    return file.getvalue()


TABLE = written(
    ("fill_random", 9, {stalls.DURATION: "7"}),
    ("gemm_small", 3, {stalls.DURATION: "12,500", WAIT: "0.5", BARRIER: "2", SECOND: "61.25"}),
    ("gemm_large", 5, {stalls.DURATION: "250", WAIT: "0", SECOND: "10", FIRST: "70"}),
)


def test_every_launch_has_its_time_shares_and_reasons():
    small, large = stalls.results_of(LAUNCHES, ncu.parse(TABLE))
    assert small == {
        "name": "linear/a", "kernel": "gemm_small", "microseconds": 12.5,
        "shape": {"M": 8, "grid": [3], "block": [64]},
        "shares": {"tensor cores": 61.25}, "stalls": {"barrier": 2.0, "wait": 0.5},
    }  # fmt: skip
    assert list(small["stalls"]) == ["barrier", "wait"]  # most of them first
    assert (large["microseconds"], large["shares"], large["stalls"]) == (
        0.25, {"tensor cores": 70.0}, {}
    )  # fmt: skip


def test_the_table_has_a_row_for_each():
    table = stalls.table(stalls.results_of(LAUNCHES, ncu.parse(TABLE)))
    small, large = table.rows
    assert small[:3] == ("`linear/a`", "12.5", "61.2 %")
    assert small[-1] == "barrier 2, wait 0.5"
    assert large[-2:] == ("-", "")
    assert len(small) == len(table.headings)


def test_launches_are_those_of_products_as_models_call_them(monkeypatch):
    monkeypatch.setattr(stalls, "PRODUCTS", SMALL)
    made = list(stalls.named_launches("sim"))
    names = [name for name, *_ in made]
    assert names[0] == "linear/bfloat16/40x24x16"
    assert set(names[1:]) == {"linear/bfloat16/24x24x32", "residual/bfloat16/24x24x32"}
    told = json.loads(json.dumps([stalls.describe(*each) for each in made]))
    assert all(each["kernel"].startswith("gemm_") for each in told)
    assert told[0]["shape"] == {"M": 40, "N": 24, "K": 16}
    assert told[0]["grid"] == list(made[0][2].grid)


def test_what_is_short_of_its_goal_is_asked():
    asked = {(each.M, each.N, way) for each in stalls.PRODUCTS for way in each.ways}
    assert {
        (64, 4096, "linear"),
        (2048, 4096, "residual"),
        (2048, 6144, "bias_gelu"),
        (4096, 4096, "linear"),
        (8192, 8192, "gemm_tensorcore/interleaved"),
    } <= asked


@pytest.fixture
def fake_ncu(monkeypatch):
    """Stand in for a run on a GPU."""
    asked = {}

    def profile(program, command, metrics, log, kernels):
        asked.update(command=command, metrics=metrics, kernels=kernels)
        with open(command[-1], "w") as file:
            json.dump(LAUNCHES, file)
        log.write_text(TABLE)
        return TABLE

    monkeypatch.setattr(ncu, "known_metrics", lambda program, metrics: [*metrics][:2])
    monkeypatch.setattr(ncu, "profile", profile)
    return asked


def test_the_command_writes_a_record_and_keeps_the_table(fake_ncu, tmp_path):
    out, keep = tmp_path / "record.json", tmp_path / "kept" / "here"
    options = ["--ncu", "an ncu", "--out", str(out), "--keep", str(keep), "--commit", "abc"]
    result = CliRunner().invoke(app, ["bench", "stalls", *options])
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["benchmark"] == "stalls"
    assert record["settings"]["metrics"] == list(stalls.METRICS[:2])
    assert [each["name"] for each in record["results"]] == ["linear/a", "residual/a"]
    assert (keep / "ncu.csv").read_text() == TABLE
    assert "barrier 2, wait 0.5" in result.stdout
    assert fake_ncu["kernels"] == "gemm_.*"
    assert fake_ncu["command"][1:3] == ["-m", "llm_numba.bench.stalls"]


def test_without_ncu_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(ncu, "_PLACES", ())
    result = CliRunner().invoke(app, ["bench", "stalls", "--out", str(tmp_path / "record.json")])
    assert result.exit_code == 2
    assert "Nsight Compute (ncu) is not installed." in " ".join(result.stderr.split())
