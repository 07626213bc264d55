"""Counters: the simulator's against hand calculation, and the comparison with a stand-in's."""

import csv
import io
import json
from fnmatch import fnmatch

import pytest
from typer.testing import CliRunner

from llm_numba.bench import counters
from llm_numba.bench.counter_cases import cases
from llm_numba.bench.counter_explanations import KNOWN, UNEXPLAINED, explain
from llm_numba.cli.app import app

REQUESTS = "l1tex__t_requests_pipe_lsu_mem_global_op_{}.sum"
SECTORS = "l1tex__t_sectors_pipe_lsu_mem_global_op_{}.sum"
INSTRUCTIONS = "smsp__sass_inst_executed_op_shared.sum"
WAVEFRONTS = "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_{}.sum"

WARPS = 16 * 8  # of a pattern: 16 blocks of 256 threads
FILLS = 4 * WARPS  # requests that fill 1,024 words of shared memory in each block


# -- By hand --------------------------------------------------------------------------------------


def simulated(name):
    (case,) = (case for case in cases() if case.name == name)
    (launch,) = case.launches("sim")
    return counters.simulated(launch)


@pytest.mark.parametrize(("stride", "sectors"), [(2, 8), (8, 32), (32, 32)])
def test_a_stride_spreads_a_request_over_sectors(stride, sectors):
    found = simulated(f"global_stride/{stride}/float32")
    assert found["global_requests"] == 2 * WARPS
    assert found["global_sectors"] == WARPS * (sectors + 4)


def test_packets_are_one_request_of_16_sectors():
    found = simulated("global_packets/float32")
    assert (found["global_requests"], found["global_sectors"]) == (2 * WARPS, 2 * WARPS * 16)


@pytest.mark.parametrize(("case", "sectors"), [("thread", 4), ("misaligned", 5)])
def test_one_element_beside_a_sector_s_beginning_costs_one_sector(case, sectors):
    found = simulated(f"saxpy/{case}/float32")
    assert found["global_requests"] == 3 * WARPS
    assert found["global_sectors"] == 3 * WARPS * sectors


@pytest.mark.parametrize(
    ("case", "wavefronts"),
    [("shared_stride/1", 1), ("shared_stride/2", 2), ("shared_stride/8", 8),
     ("shared_stride/32", 32), ("shared_groups/2", 1), ("shared_groups/32", 1),
     # Packets: 4 quarter-warps, whose 8 lanes meet in one set of four banks if they lie 8 apart.
     ("shared_packets/1", 4), ("shared_packets/2", 8), ("shared_packets/8", 32)],
)  # fmt: skip
def test_a_request_takes_as_many_wavefronts_as_its_worst_bank(case, wavefronts):
    found = simulated(f"{case}/float32")
    assert found["shared_requests"] == FILLS + WARPS
    assert found["shared_wavefronts"] == FILLS + WARPS * wavefronts


@pytest.mark.parametrize(("stride", "wavefronts"), [(1, 2), (2, 4), (16, 32)])
def test_numbers_of_8_bytes_go_by_half_warps(stride, wavefronts):
    found = simulated(f"shared_float64/{stride}/float64")
    assert found["shared_requests"] == FILLS + WARPS
    assert found["shared_wavefronts"] == 2 * FILLS + WARPS * wavefronts


@pytest.mark.parametrize(
    ("dtype", "step", "sectors", "ways"),
    [("float32", "naive", 4 + 32, 0), ("float32", "tile", 4 + 4, 32),
     ("float32", "padded", 4 + 4, 1), ("float32", "swizzled", 4 + 4, 1),
     ("float16", "tile", 2 + 2, 16), ("float16", "padded", 2 + 2, 1)],
)  # fmt: skip
def test_transposes_cost_what_their_table_says(dtype, step, sectors, ways):
    requests = 256 * 256 // 32  # each way
    found = simulated(f"transpose/{step}/{dtype}")
    assert found["global_requests"] == 2 * requests
    assert found["global_sectors"] == requests * sectors
    assert found["shared_wavefronts"] == (requests * (1 + ways) if ways else 0)


# -- Against the hardware -------------------------------------------------------------------------


def table(rows):
    """What ncu prints of launches: (kernel, grid, block, metrics)."""
    names = list(dict.fromkeys(name for *_, metrics in rows for name in metrics))
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["ID", "Process ID", "Kernel Name", "Block Size", "Grid Size", *names])
    writer.writerow([""] * 5 + ["request"] * len(names))
    for number, (kernel, grid, block, metrics) in enumerate(rows):
        figures = [metrics.get(name, "n/a") for name in names]
        writer.writerow([number, 1, kernel, block, grid, *figures])
    return f"==PROF== Connected to process 1\n{out.getvalue()}==PROF== Disconnected\n"


# Says which metrics it has, and hands out a table that lies beside it.
NCU = """
import pathlib, shutil, sys
metrics = {metrics!r}
if "--query-metrics" in sys.argv:
    print("Device NVIDIA H100")
    for name in metrics:
        print('"' + name.partition(".")[0] + '","Counter","unit","description"')
else:
    asked = sys.argv[sys.argv.index("--metrics") + 1].split(",")
    assert sorted(asked) == sorted(metrics), asked
    assert sys.argv[-2:] == ["-m", "llm_numba.bench.counters"]
    log = sys.argv[sys.argv.index("--log-file") + 1]
    shutil.copy(pathlib.Path(__file__).with_name("table.csv"), log)
"""


@pytest.fixture
def hardware(program, monkeypatch):
    """A stand-in for ncu that counts two cases; one figure is off, one is absent."""
    chosen = [case for case in cases() if fnmatch(case.name, "shared_stride/[28]/*")]
    monkeypatch.setattr(counters, "cases", lambda: iter(chosen))
    zero = {form.format(kind): 0 for form in (REQUESTS, SECTORS) for kind in ("red", "atom")}
    figures = {
        REQUESTS.format("ld"): FILLS, REQUESTS.format("st"): WARPS,
        SECTORS.format("ld"): 4 * FILLS, SECTORS.format("st"): 4 * WARPS,
        INSTRUCTIONS: FILLS + WARPS, WAVEFRONTS.format("st"): FILLS,
        WAVEFRONTS.format("ld"): 2 * WARPS, WAVEFRONTS.format("atom"): 0,
    } | zero  # fmt: skip
    more = figures | {INSTRUCTIONS: 12_345, WAVEFRONTS.format("ld"): "n/a"}
    program("ncu", NCU.format(metrics=list(figures))).with_name("table.csv").write_text(
        table(
            [
                ("cupy_fill", "(1, 1, 1)", "(128, 1, 1)", {}),
                ("cudapy::x::shared_stride[abi:v1]", "(16, 1, 1)", "(256, 1, 1)", figures),
                ("cudapy::x::shared_stride[abi:v1]", "(16, 1, 1)", "(256, 1, 1)", more),
            ]
        )
    )


@pytest.fixture
def record(hardware, tmp_path):
    path = tmp_path / "record.json"
    arguments = ["bench", "counters", "--out", str(path), "--keep", str(tmp_path / "kept")]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "shared_stride/2" in result.stdout
    return json.loads(path.read_text())


def test_equal_figures_have_no_difference_and_no_excuse(record):
    first = record["results"][0]
    assert first["name"] == "shared_stride/2/float32"
    assert first["shape"] == {"stride": 2, "grid": [16], "block": [256]}
    assert first["counters"]["global_sectors"] == {
        "simulator": 4 * (FILLS + WARPS), "hardware": 4 * (FILLS + WARPS), "difference": 0,
        "explanation": None,
    }  # fmt: skip
    # The wavefronts counted at the banks stand in for those counted by instruction.
    assert first["counters"]["shared_wavefronts"]["hardware"] == FILLS + 2 * WARPS


def test_a_difference_that_nobody_understands_stays_visible(record):
    entry = record["results"][1]["counters"]["shared_requests"]
    assert entry == {
        "simulator": FILLS + WARPS, "hardware": 12_345, "difference": FILLS + WARPS - 12_345,
        "explanation": UNEXPLAINED,
    }  # fmt: skip


def test_what_the_hardware_did_not_count_is_absent(record):
    entry = record["results"][1]["counters"]["shared_wavefronts"]
    assert (entry["hardware"], entry["difference"]) == (None, None)
    assert entry["simulator"] == FILLS + 8 * WARPS


def test_the_record_counts_its_verdicts_and_keeps_the_raw_figures(record, tmp_path):
    # Branches: this ncu has no metric for them.
    assert record["summary"] == {"equal": 6, "explained": 0, "unexplained": 1, "absent": 3}
    assert record["results"][0]["metrics"][REQUESTS.format("ld")] == FILLS
    assert record["benchmark"] == "simulator_counters"
    assert "==PROF==" in (tmp_path / "kept" / "ncu.csv").read_text()


def test_a_record_can_be_simulated_anew_without_a_gpu(record, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path, out = tmp_path / "record.json", tmp_path / "again.json"
    arguments = ["bench", "counters", "--again", str(path), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    again = json.loads(out.read_text())
    assert again.pop("simulated_at") is None  # without git on the path
    assert again == record


def test_what_a_run_left_behind_gives_the_record_elsewhere(record, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "elsewhere.json"
    arguments = ["bench", "counters", "--kept", str(tmp_path / "kept"), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == record


def test_a_directory_without_a_run_is_refused(tmp_path):
    out = str(tmp_path / "x.json")
    result = CliRunner().invoke(app, ["bench", "counters", "--kept", str(tmp_path), "--out", out])
    assert result.exit_code == 2
    assert "origin.json cannot be read" in " ".join(result.output.split())


def test_a_file_that_is_no_record_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[]")
    result = CliRunner().invoke(app, ["bench", "counters", "--again", str(path)])
    assert result.exit_code == 2
    assert "is no record" in result.output


# -- Explanations ---------------------------------------------------------------------------------


def test_an_explanation_holds_for_its_own_figure_only():
    known = next(known for known in KNOWN if known.case == "gemm/tiled/float32")
    why = explain(known.case, known.counter, known.hardware + 1, known.hardware)
    assert why == known.why
    assert explain(known.case, known.counter, known.hardware + 1, known.hardware + 2) == UNEXPLAINED
    assert explain(known.case, known.counter, 7, 7) is None


def test_fewer_divergent_branches_are_explained_and_more_are_not():
    assert "predicates" in explain("x", "divergent_branches", 10, 4)
    assert explain("x", "divergent_branches", 4, 10) == UNEXPLAINED


def test_each_explanation_is_of_a_case_and_a_counter():
    names = [name for name, _, _ in counters.named_launches("sim")]
    assert len(names) == len(set(names))
    for known in KNOWN:
        assert any(fnmatch(name, known.case) for name in names), known
        assert any(fnmatch(counter.name, known.counter) for counter in counters.COUNTERS), known
