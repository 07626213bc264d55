"""What ``llm-numba bench machine`` measures: run in the simulator, where it takes no time."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from llm_numba.bench import (
    machine,
    machine_bandwidth,
    machine_cores,
    machine_cycles,
    machine_tensor,
    machine_unified,
)
from llm_numba.bench.budget import Budget
from llm_numba.bench.timing import summarize
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels import basics_tensor
from llm_numba.kernels.basics_latency import OPERATIONS
from llm_numba.runtime import launch_all


@pytest.fixture
def _small(monkeypatch):
    """Sizes that the simulator runs in no time."""
    for name, value in {
        "_ROUNDS": 1,
        "_MANY": 64,
        "_STEPS": 8,
        "_WARM_STEPS": 16,
        "_WARM_LINES": 48,
        "RING_SIZES": (4096, 8192),
        "SHARED_RING": 1024,
    }.items():
        monkeypatch.setattr(machine_cycles, name, value)


@pytest.fixture
def clock(monkeypatch):
    """What each launch takes, by the two clocks."""
    times = {"cycles": 0, "nanoseconds": 0}
    for module in (machine_cycles, machine_bandwidth):
        monkeypatch.setattr(module, "launch_all", lambda launches: clocked(launches, times))
    return times


def clocked(launches, times):
    """Run launches, and leave the times where their kernels leave them."""
    launch_all(launches)
    for launch in launches:
        taken = next(each for each in launch.args if getattr(each, "dtype", None) == np.int64)
        taken[:] = (times["cycles"], times["nanoseconds"])[: taken.size]


def medians(results):
    return {each.name: each.statistic.median for each in results}


@pytest.mark.usefixtures("_small")
def test_cycles_are_of_one_operation(clock):
    clock["cycles"] = 32 * 7
    found = medians(machine_cycles.instructions(3, "sim"))
    assert found == {f"instruction/{each.name}": 7 for each in OPERATIONS}


@pytest.mark.usefixtures("_small")
def test_a_chase_is_told_in_cycles_and_nanoseconds_of_one_step(clock):
    clock |= {"cycles": 8 * 30, "nanoseconds": 8 * 20}
    found = medians(machine_cycles.chases(2, Budget(100, {"chase": 1}), "sim"))
    for key in ("shared", "bytes=4096", "bytes=8192"):
        assert found.pop(f"chase/{key}") == 30
        assert found.pop(f"chase_time/{key}") == 20
    assert found == {"clock": 1500}


@pytest.mark.usefixtures("_small")
def test_without_time_for_it_a_ring_is_noted_as_left_out():
    budget = Budget(0, {"chase": 1})
    found = list(machine_cycles.chases(1, budget, "sim"))
    assert [each.name for each in found if "bytes" in each.name] == []
    assert budget.left_out == {"chase/bytes=4096": "its time was up"}


@pytest.mark.usefixtures("_small")
def test_conflicts_are_told_of_one_request_and_paths_of_the_block(clock):
    clock["cycles"] = 640
    found = medians(machine_cycles.banks(1, "sim"))
    assert found["banks/one_warp/stride=1"] == 20  # 32 requests
    assert found["banks/many_warps/stride=33"] == 10  # 64, of two warps
    assert len(found) == 2 * len(machine_cycles.STRIDES)
    found = medians(machine_cycles.paths(1, "sim"))
    assert set(found.values()) == {640}
    assert len(found) == 2 * len(machine_cycles.PATHS)


def test_shared_memory_is_told_in_bytes_of_a_cycle(clock):
    clock["cycles"] = 512
    found = machine_bandwidth.shared_bandwidth(2, "sim")
    assert (found.statistic.median, found.statistic.unit) == (128, "bytes/cycle")


def test_products_are_told_in_flops_of_a_cycle(clock, monkeypatch):
    for name, value in {"_ROUNDS": 1, "WARPS": (4,), "CHAINS": (2,), "GROUPS": (1,)}.items():
        monkeypatch.setattr(machine_tensor, name, value)
    clock["cycles"] = 2 * basics_tensor.IN_A_ROUND
    assert medians(machine_tensor.tensor_cores(1, "sim")) == {
        "tensor/latency": 2,
        "tensor/warps=4/chains=2": 4 * basics_tensor.MMA_FLOPS,
        "tensor/warpgroups=1": basics_tensor.WGMMA_FLOPS / 8,
    }


def test_rings_are_of_all_sizes_from_small_to_large():
    assert sorted(set(machine_cycles.RING_SIZES)) == list(machine_cycles.RING_SIZES)
    assert all(size % 128 == 0 for size in machine_cycles.RING_SIZES)
    sizes = np.array(machine_cycles.RING_SIZES)
    assert (sizes[1:] / sizes[:-1]).max() <= 1.5


def test_parts_run_in_their_own_order_and_unknown_ones_are_named():
    assert machine.choose("") == machine.PARTS
    assert machine.choose("launch, chase") == ("chase", "launch")
    with pytest.raises(LLMNumbaError, match="--only bank names no part"):
        machine.choose("bank")


def test_a_part_that_fails_leaves_what_the_others_measured(monkeypatch):
    result = machine.Result("a", "a", summarize([1.0], "us"))

    def fails(*_):
        yield result
        raise ZeroDivisionError("no such clock")

    monkeypatch.setattr(machine.machine_cycles, "banks", fails)
    monkeypatch.setattr(machine.machine_cycles, "paths", lambda repeats: iter([result]))
    settings = machine.MachineSettings(("banks", "paths"))
    budget = settings.budget(100)
    assert list(machine.measure(settings, budget, {})) == [result, result]
    assert budget.left_out == {"banks": "ZeroDivisionError: no such clock"}


def test_an_unknown_part_ends_the_command_before_it_looks_for_a_gpu():
    done = CliRunner().invoke(app, ["bench", "machine", "--only", "l3"])
    assert done.exit_code == 2
    assert "--only l3 names no part of this benchmark" in " ".join(done.stderr.split())


def test_cores_are_those_that_numpy_was_given(monkeypatch):
    monkeypatch.setattr(machine_cores, "_SIZE", 64)
    monkeypatch.setattr(machine_cores, "_MEGABYTES", 1.0)
    found = list(machine_cores.cores(1))
    assert [each.name for each in found] == [
        f"cores/{key}/{what}" for key in ("one", "all") for what in ("product", "read")
    ]
    assert found[0].shape["cores"] == 1
    assert found[2].shape["cores"] == len(os.sched_getaffinity(0))
    assert all(each.statistic.median > 0 for each in found)


def test_a_part_is_put_into_the_record_of_all(monkeypatch, tmp_path):
    """The rest stays, timelines too; and what was left out is so no more."""
    path = tmp_path / "machine.json"
    clock = {"name": "clock", "median": 1.0}
    earlier = {
        "environment": {"gpus": [], "packages": {}}, "results": [clock], "timelines": {"a": []},
        "left_out": {"cores": "its time was up", "chase/bytes=4096": "its time was up"},
    }  # fmt: skip
    path.write_text(json.dumps(earlier))
    newer = {
        "environment": earlier["environment"] | {"git": None}, "date": "today", "command": [],
        "settings": {}, "results": [{"name": "cores/one/read", "median": 2.0}],
    }  # fmt: skip
    monkeypatch.setattr("llm_numba.bench.record.make_record", lambda *_: newer)
    monkeypatch.setattr("llm_numba.runtime.kernel_device", lambda _: None)
    monkeypatch.setattr("llm_numba.runtime.machine.gpu_clocks", dict)
    monkeypatch.setattr(machine, "properties", dict)
    monkeypatch.setattr(machine, "measure", lambda *_: iter(()))
    done = CliRunner().invoke(
        app, ["bench", "machine", "--only", "cores", "--into", str(path)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())
    assert [each["name"] for each in record["results"]] == ["clock", "cores/one/read"]
    assert (record["timelines"], record["left_out"]) == (
        {"a": []}, {"chase/bytes=4096": "its time was up"},
    )  # fmt: skip
    assert record["renewed"][0]["only"] == ["cores"]


@pytest.mark.gpu
def test_on_a_gpu_every_part_finds_something(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_cycles, "RING_SIZES", (4096, 1 << 20))
    monkeypatch.setattr(machine_bandwidth, "SIZES", (1 << 16, 1 << 24))
    monkeypatch.setattr(machine_unified, "_LENGTH", 1 << 20)
    monkeypatch.setattr(machine_cores, "_SIZE", 256)
    path = tmp_path / "machine.json"
    done = CliRunner().invoke(
        app, ["bench", "machine", "--repeats", "1", "--out", str(path), "--limit", "300"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads(path.read_text())
    assert record["left_out"] == {}
    assert {each["name"].split("/")[0] for each in record["results"]} >= set(machine.PARTS) - {
        "instructions"
    }
    assert all(each["median"] > 0 for each in record["results"])
    assert len(record["timelines"]) == 4
