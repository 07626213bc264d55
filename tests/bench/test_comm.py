"""``llm-numba bench comm``: each operation at each size, as the slowest rank sees it."""

import re
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from llm_numba.bench import comm as module
from llm_numba.bench.comm import CommSettings, measure
from llm_numba.bench.comm_picture import curves_of, describe, draw, sizes
from llm_numba.cli.app import app
from llm_numba.parallel import run_ranks

SETTINGS = CommSettings(3, samples=2, warmup=1, seconds=1e-4, sizes=(64, 1024))


def test_all_ranks_measure_the_same():
    first, *others = run_ranks(3, lambda comm: list(measure(comm, SETTINGS)))
    assert first == others[0] == others[1]
    names = [result.name for result in first]
    assert names[:2] == ["threads/ranks=3/tell", "threads/ranks=3/barrier"]
    operations = ("copy", "send", "broadcast", "all_gather", "reduce_scatter", "all_reduce")
    assert names[2:] == [
        f"threads/ranks=3/{each}/bytes={size}" for each in operations for size in (64, 1024)
    ]
    assert {result.statistic.n for result in first} == {2}
    sent = {result.name.split("/")[2]: result.shape["bus_bytes"] for result in first}
    assert sent["all_reduce"] == pytest.approx(1024 * 4 / 3)
    assert sent["all_gather"] == sent["reduce_scatter"] == pytest.approx(1024 * 2 / 3)
    assert sent["send"] == 1024


def test_what_was_measured_can_be_drawn_by_path_and_by_operation():
    results = run_ranks(2, lambda comm: [each.to_json() for each in measure(comm, SETTINGS)])[0]
    for what, name in (("threads", "all_reduce"), ("all_reduce", "threads")):
        curves = curves_of({"results": results}, what)
        picture = draw(curves, what).svg("")
        assert f">{name}</text>" in picture
        assert ">barrier</text>" not in picture
        assert re.search(
            rf"{name} takes [\d.]+ µs at 64 bytes and [\d.]+ µs at", describe(curves, what)
        )
        assert [row[0] for row in sizes(curves).rows] == ["64", "1,024"]


def test_a_sample_is_the_time_of_the_slowest_rank(monkeypatch):
    def work(comm, x):
        time.sleep(0.02 * comm.rank)

    slow = module._Operation("waiting", work, lambda P: 0.0)
    monkeypatch.setattr(module, "_OPERATIONS", {"wait": slow})
    settings = CommSettings(3, samples=3, warmup=0, seconds=0.0, sizes=(64,))
    for results in run_ranks(3, lambda comm: list(measure(comm, settings))):
        assert results[-1].statistic.p10 > 0.9 * 40e3


def test_calls_are_not_counted_by_the_first_which_compiles(monkeypatch):
    def work(comm, x):
        time.sleep(0 if started[comm.rank] else 0.05)
        started[comm.rank] = True

    started = [False, False]
    compiled = module._Operation("compiled", work, lambda P: 0.0)
    monkeypatch.setattr(module, "_OPERATIONS", {"compile": compiled})
    settings = CommSettings(2, samples=1, warmup=0, seconds=0.04, sizes=(64,))
    for results in run_ranks(2, lambda comm: list(measure(comm, settings))):
        assert results[-1].shape["calls"] > 1


@pytest.mark.parametrize(("captures", "calls"), [(True, 64), (False, 1000)])
def test_a_graph_holds_no_more_calls_than_a_step(captures, calls, monkeypatch):
    monkeypatch.setattr(module, "_timed", lambda *_: lambda: 1e-7)
    settings = CommSettings(2, samples=1, warmup=0, device="cuda")
    comm = SimpleNamespace(
        name="peer", size=2, captures=captures, barrier=lambda: None, exchange=lambda each: [each]
    )
    result = module._result(comm, settings, "all_reduce", "sums", 64, lambda: None, 64.0)
    assert (result.shape["calls"], result.shape["in_graph"]) == (calls, captures)


def test_the_time_of_a_launch_is_no_point():
    def result(num_bytes, calls, time, in_graph=True):
        shape = {"path": "peer", "operation": "all_reduce", "bytes": num_bytes, "calls": calls}
        return {"shape": shape | {"in_graph": in_graph}, "median": time}

    results = [
        result(64, 1, 25.0),
        result(256, 90, 2.5),
        result(4096, 1, 30.0, in_graph=False),
        result(1 << 28, 1, 20_000.0),
    ]
    curves = curves_of({"results": results}, "all_reduce")
    assert curves == {"peer": [(256, 2.5), (4096, 30.0), (1 << 28, 20_000.0)]}


def test_a_rank_alone_has_nothing_to_measure(monkeypatch):
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(variable, raising=False)
    result = CliRunner().invoke(app, ["bench", "comm"])
    assert result.exit_code == 2
    assert "One rank has nobody to talk to." in result.stderr
