"""Tables of several ranks, from records that the pages may not have yet."""

import json
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"
GPUS = [{"name": "NVIDIA Example", "driver": "1"}]


@pytest.fixture(autouse=True)
def _extensions(monkeypatch):
    pytest.importorskip("sphinx", reason="sphinx is not installed: make docs brings it")
    monkeypatch.syspath_prepend(str(EXTENSIONS))


class Environment:
    """Stands for Sphinx's, which is told what a page depends on."""

    def note_dependency(self, path):
        """Nothing is built."""


def record(benchmark, settings, results):
    return {
        "benchmark": benchmark,
        "date": "2030-01-31T12:00:00+00:00",
        "file": "docs/results/x.json",
        "environment": {"gpus": GPUS, "git": {"commit": "abcdef0123456789"}},
        "settings": {"device": "cuda"} | settings,
        "results": results,
    }


def ranks(tp, path, step, load=None):
    shape = {"tp": tp, "pp": 1, "path": path, "batch": 1, "requests": 32}
    results = [{"name": f"decode/tp={tp}", "median": step, "shape": shape}]
    if load:
        results.append({"name": f"load/tp={tp}", "median": load, "shape": shape})
    return record("ranks", {"tp": tp, "pp": 1}, results)


def test_splits_stand_beside_one_gpu_and_the_fastest_path_counts():
    from split_table import table

    rows = table([ranks(2, "mpi", 5.0), ranks(2, "peer", 2.5, 300.0), ranks(1, "alone", 4.0, 200)])
    assert rows[0] == (
        "| machine | split | arrays by | a step of 1, ms | times one | 32 requests, tokens/s | "
        "times one |"
    )
    assert rows[2:4] == [
        "| Example | tp=1, pp=1 |  | 4 | 1.00 | 200 | 1.00 |",
        "| Example | tp=2, pp=1 | `peer` | 2.5 | 1.60 | 300 | 1.50 |",
    ]
    assert rows[4] == ""


def test_without_one_gpu_nothing_is_compared():
    from split_table import table

    assert table([ranks(2, "peer", 2.5)])[2] == "| Example | tp=2, pp=1 | `peer` | 2.5 | - |"


def test_an_operation_has_a_curve_for_each_path_and_bandwidth_is_of_bytes_sent(
    monkeypatch, tmp_path
):
    import bench_records
    import comm_plot

    results = [
        {"name": "x", "median": median,
         "shape": {"path": path, "operation": operation, "bytes": size, "bus_bytes": size / 2}}
        for path, operation, size, median in (
            ("peer", "all_reduce", 64, 4.0), ("peer", "all_reduce", 1 << 20, 10.0),
            ("mpi", "all_reduce", 64, 20.0), ("mpi", "all_reduce", 1 << 20, 40.0),
            ("mpi", "send", 64, 10.0),
        )
    ]  # fmt: skip
    monkeypatch.setattr(bench_records, "RESULTS", tmp_path)
    path = tmp_path / "comm_nvidia-x_2-ranks.json"
    path.write_text(json.dumps(record("comm", {"ranks": 2}, results)))
    pattern = "comm_*nvidia*_2-ranks.json"
    _, curves = comm_plot._read(Environment(), pattern, "all_reduce")
    assert curves == {"peer": [(64, 4.0), (1 << 20, 10.0)], "mpi": [(64, 20.0), (1 << 20, 40.0)]}
    _, rates = comm_plot._read(Environment(), pattern, "all_reduce", rate=True)
    assert rates["peer"] == [(1 << 20, pytest.approx(52.4288))]
    _, by_operation = comm_plot._read(Environment(), pattern, "mpi")
    assert set(by_operation) == {"all_reduce", "send"}
