"""Tables of links: what records give, and what plans take of them."""

import json
from pathlib import Path

import pytest

from llm_numba.parallel import measured
from llm_numba.parallel.measured import MachineKind, TimesTable
from llm_numba.planner.collectives import LinkTable
from llm_numba.planner.gpus import LINKS
from llm_numba.planner.links import packaged_links, tables_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
KIND = {"gpu": "NVIDIA H200", "ranks": 2, "links": "nvlink"}


def record(directory, name, machine, *rows):
    results = [
        {"shape": dict(zip(("path", "operation", "bytes"), row, strict=False)) | {"ranks": 2},
         "median": row[3]}
        for row in rows
    ]  # fmt: skip
    settings = {"machine": machine} if machine else {}
    environment = {"git": {"commit": "abc"}}
    record = {"date": "2030-01-31", "settings": settings, "environment": environment}
    (directory / name).write_text(json.dumps(record | {"results": results}))


@pytest.fixture(name="made")
def _made(tmp_path):
    rows = [("peer", "all_reduce", 64, 2.0), ("nccl", "all_reduce", 64, 3.0),
            ("peer", "all_reduce", 10**9, 5002.0), ("nccl", "all_reduce", 10**9, 4002.0),
            ("nccl", "send", 64, 3.0)]  # fmt: skip
    record(tmp_path, "comm_nvidia-h200_2-ranks.json", KIND, *rows)
    record(tmp_path, "comm_some-cpu_2-ranks.json", None, *rows)
    record(tmp_path, "comm_nvidia-x_2-ranks.json", KIND | {"links": ""}, *rows)
    record(tmp_path, "comm_nvidia-h200_2-ranks_nccl.json", KIND, *rows)
    return tables_of(tmp_path)


def test_a_record_of_a_machine_that_is_known_becomes_a_table(made):
    assert list(made) == ["nvidia-h200_2-ranks.json"]
    table = made["nvidia-h200_2-ranks.json"]
    assert table.kind == MachineKind(**KIND)
    assert table.source == {
        "file": "comm_nvidia-h200_2-ranks.json", "date": "2030-01-31", "commit": "abc",
    }  # fmt: skip
    assert table.times["all_reduce"]["nccl"] == [(64, 3.0), (10**9, 4002.0)]


def test_the_packaged_tables_are_what_the_records_give():
    # A new record? python -m llm_numba.planner makes the tables anew.
    packaged = {
        path.name: TimesTable.from_json(json.loads(path.read_text()))
        for path in measured.TABLES.glob("*.json")
    }
    assert packaged == tables_of(RESULTS)


def test_a_plan_takes_the_fastest_path_and_knows_the_link_by_the_gpu(made):
    links = packaged_links(list(made.values()))
    assert list(links) == ["nvlink-4"]
    table = links["nvlink-4"]
    assert table.seconds("all_reduce", 2, 64) == pytest.approx(2e-6)
    assert table.seconds("all_reduce", 2, 1e9) == pytest.approx(4002e-6)
    assert table.hop(10) == pytest.approx(3e-6)
    fitted = table.fit(LINKS["nvlink-4"])
    assert fitted.latency == pytest.approx(2e-6)
    assert fitted.bytes_per_second == pytest.approx(250e9)
    assert fitted.fitted


def test_what_was_measured_over_pcie_says_nothing_of_nvlink():
    table = TimesTable(MachineKind("NVIDIA H200", 2, "pcie-host"), {"file": "x"}, {})
    assert packaged_links([table]) == {}


def test_records_of_two_and_four_ranks_join():
    two = LinkTable("two", {("all_reduce", 2): ((64.0, 1.0),)})
    four = LinkTable("four", {("all_reduce", 4): ((64.0, 2.0),)})
    both = two.joined(four)
    assert both.seconds("all_reduce", 2, 64) == 1.0
    assert both.seconds("all_reduce", 4, 64) == 2.0
    assert both.source == "two, four"


def test_times_that_do_not_rise_fit_no_line():
    flat = LinkTable("flat", {("all_reduce", 2): ((64.0, 1e-6), (4096.0, 1e-6))})
    assert flat.fit(LINKS["nvlink-4"]) is LINKS["nvlink-4"]
    assert flat.hop(64) is None
