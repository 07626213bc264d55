"""Nsight Compute's table, read as it prints it, and a stand-in for the program."""

import pytest

from llm_numba.bench import ncu
from llm_numba.errors import DependencyError, LLMNumbaError

REQUESTS = "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum"
WAVEFRONTS = "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared.sum"
# `ncu --csv --page raw`, version 2025.3: messages, a header, a line of units, a line a launch.
TABLE = f"""\
==PROF== Connected to process 4711 (/usr/bin/python3.12)
==PROF== Profiling "tile" - 0: 0%....50%....100% - 7 passes
==WARNING== Something that a reader may ignore
==PROF== Disconnected from process 4711
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",\
"Grid Size","Device","CC","{REQUESTS}","{WAVEFRONTS}"
"","","","","","","","","","","","",""
"0","4711","python3.12","127.0.0.1","cudapy::llm_numba::kernels::transpose::tile[abi:v1]\
(Array<float, (int)2, C, mutable, aligned>)","1","7","(32, 8, 1)","(64, 1, 1)","0","9.0",\
"2,048","n/a"
"1","4711","python3.12","127.0.0.1","_ZN6cudapy5numba4gemm10gemm_tiledB2v1E5ArrayIfLi2E1C","1",\
"7","(32, 32, 1)","(4, 4, 1)","0","9.0","512.000000","270,336"
"""


def launches():
    return ncu.parse(TABLE)


def test_each_launch_has_its_name_extents_and_figures():
    first, second = launches()
    assert "transpose::tile" in first.kernel
    assert (first.grid, first.block) == ((64, 1, 1), (32, 8, 1))
    assert first.metrics == {REQUESTS: 2048, WAVEFRONTS: None}
    assert second.metrics == {REQUESTS: 512, WAVEFRONTS: 270336}


def test_a_figure_that_ncu_lacks_is_absent_and_not_zero():
    assert launches()[0].metrics[WAVEFRONTS] is None


@pytest.mark.parametrize("name", ["tile", "gemm_tiled"])
def test_a_kernel_is_known_by_its_name_mangled_or_not(name):
    assert [launch.is_of(name) for launch in launches()] == [name == "tile", name == "gemm_tiled"]


def test_launches_are_paired_by_order_and_name():
    second = launches()[1]
    assert ncu.pair([("gemm_tiled", (4, 4), (32, 32))], launches()) == [second]


@pytest.mark.parametrize(
    ("expected", "cause"),
    [
        ([("tile", (64,), (32, 8)), ("tile", (64,), (32, 8))], "no launch number 1, of tile"),
        ([("gemm_tiled", (4, 4), (32, 32)), ("tile", (64,), (32, 8))], "no launch number 1"),
        ([("tile", (65,), (32, 8))], r"has grid \(65, 1, 1\), and ncu shows one with \(64, 1, 1\)"),
        ([("tile", (64,), (32,))], "has block"),
    ],
    ids=["missing", "another order", "another grid", "another block"],
)
def test_a_launch_that_is_not_there_is_told(expected, cause):
    with pytest.raises(LLMNumbaError, match=cause):
        ncu.pair(expected, launches())


@pytest.mark.parametrize("text", ["", "==ERROR== ERR_NVGPUCTRPERM - no permission\n"])
def test_no_table_is_told_with_what_ncu_said(text):
    with pytest.raises(LLMNumbaError, match=r"printed no table: (nothing|==ERROR==)"):
        ncu.parse(text)


# As `ncu --query-metrics --csv` prints it: base names, without suffix.
QUERY = f"""
import sys
print('"Metric Name","Metric Type","Metric Unit","Metric Description"')
if "source" in sys.argv:
    print('"{WAVEFRONTS[:-4]}","Counter","","# of shared memory wavefronts"')
else:
    print('"{REQUESTS[:-4]}","Counter","request","# of requests"')
"""


def test_metrics_that_this_ncu_lacks_are_left_out(program):
    program("ncu", QUERY)
    asked = [REQUESTS, "l1tex__t_requests.sum", WAVEFRONTS]
    assert ncu.known_metrics("ncu", asked) == [REQUESTS, WAVEFRONTS]


def test_ncu_that_knows_no_metrics_is_told(program):
    program("ncu", "raise SystemExit('==ERROR== no driver')")
    with pytest.raises(LLMNumbaError, match="no driver"):
        ncu.known_metrics("ncu", [REQUESTS])


RECORDER = """
import json, os, sys
log = sys.argv[sys.argv.index("--log-file") + 1]
open(log, "w").write(json.dumps([sys.argv[1:], os.environ["LC_ALL"]]))
"""


def test_a_program_is_profiled_without_touching_the_clocks(program, tmp_path):
    program("ncu", RECORDER)
    text = ncu.profile("ncu", ["python", "-m", "x"], [REQUESTS, WAVEFRONTS], tmp_path / "log")
    assert '"--clock-control", "none"' in text
    assert f'"--metrics", "{REQUESTS},{WAVEFRONTS}", "python", "-m", "x"]' in text
    assert text.endswith(', "C"]')


def test_a_program_that_fails_under_ncu_is_told(program, tmp_path):
    program("ncu", "import sys; print('==PROF== hello'); sys.exit('Traceback: no cupy')")
    with pytest.raises(LLMNumbaError, match=r"(?s)code 1: .*no cupy.*==PROF== hello"):
        ncu.profile("ncu", ["python"], [REQUESTS], tmp_path / "log")


def test_ncu_is_looked_for_on_the_path(program, monkeypatch, tmp_path):
    path = program("ncu", "")
    assert ncu.find_ncu() == str(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ncu, "_PLACES", (str(tmp_path / "nowhere"),))
    with pytest.raises(DependencyError, match="not installed"):
        ncu.find_ncu()


def test_ncu_is_looked_for_where_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    installed = tmp_path / "nsight-compute" / "2025.3.1" / "ncu"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(ncu, "_PLACES", (str(installed.parents[1]),))
    assert ncu.find_ncu() == str(installed)
