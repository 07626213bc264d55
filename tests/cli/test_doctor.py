"""``llm-numba doctor``: probes that crash, hang or fail become findings."""

import json
import subprocess
import sys

import pytest

from llm_numba.cli import doctor as module
from llm_numba.cli import probes


def child(source: str) -> subprocess.Popen[str]:
    """Start a stand-in for a probe."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", source], stdout=pipe, stderr=pipe, text=True)


def test_the_cpu_path_works_here(cli):
    done = cli.run("doctor")
    assert done.returncode == 0, done.stderr
    assert "CPU path" in done.stdout
    assert "NumPy" in done.stdout


def test_json_has_a_finding_for_every_part(cli):
    result = cli.invoke("doctor", "--json")
    assert result.exit_code == 0, result.output
    findings = {finding["part"]: finding for finding in json.loads(result.stdout)}
    parts = [
        "CPU path", "Simulator", "Python", "NumPy", "NVIDIA GPU", "Numba CUDA", "CuPy", "GPU path",
        "MPI",
    ]  # fmt: skip
    assert list(findings) == parts
    assert findings["CPU path"]["status"] == "works"
    assert findings["Simulator"]["status"] == "works"
    assert findings["CPU path"]["facts"]["tokens"] == 8


@pytest.mark.parametrize(
    ("source", "error"),
    [("import os; os.abort()", "crashed with signal 6"),
     ("import time; time.sleep(60)", "no answer within 0.5 s"),
     ("raise RuntimeError('no such thing')", "RuntimeError: no such thing"),
     ("raise SystemExit(3)", "exit code 3")],
)  # fmt: skip
def test_probe_that_ends_badly_is_a_fact(source, error):
    assert probes.finish(child(source), 0.5 if "sleep" in source else 30) == {"error": error}


def test_probe_may_write_more_than_its_facts():
    assert probes.finish(child("print('a warning'); print('{\"right\": true}')"), 30) == {
        "right": True
    }


@pytest.mark.parametrize(
    ("out", "facts"),
    [("{\"size\": 2}\n{\"size\": 2}\n\0", {"size": 2}),
     ("{\"size\": 1}{\"size\": 1}\n\n", {"size": 1}),
     ("3\n", {"error": "it ended without a word"}),
     ("", {"error": "it ended without a word"})],
)  # fmt: skip
def test_facts_of_several_ranks_are_found_however_they_are_joined(out, facts):
    assert probes.finish(child(f"print({out!r}, end='')"), 30) == facts


@pytest.fixture
def broken_cpu_path(monkeypatch):
    """Let the CPU probe crash and leave the others out."""
    monkeypatch.setattr(probes, "start", lambda name: child("import os; os.abort()"))


@pytest.mark.usefixtures("broken_cpu_path")
def test_exit_code_1_when_the_cpu_path_fails(cli):
    result = cli.invoke("doctor")
    assert result.exit_code == 1
    assert "crashed with signal 6" in result.stdout
    assert "pip install" in result.stdout
    assert "does not work" in result.stderr


SIMULATOR = {"right": True, "seconds": 1.0}
H100 = {"name": "NVIDIA H100", "memory_bytes": 80 << 30, "compute_capability": "9.0"}


@pytest.mark.parametrize(("cuda", "extra"), [("12.8", "cu12"), ("13.0", "cu13")])
def test_driver_decides_which_extra_to_install(monkeypatch, cuda, extra):
    facts = {
        "cpu_path": {"tokens": 8, "seconds": 0.1},
        "simulator": SIMULATOR,
        "blas_library": {"name": "b", "version": "1", "threads": 2, "right": True},
        "cuda_driver": {"cuda": cuda, "devices": [H100]},
    }
    monkeypatch.setattr(probes, "start", lambda name: name)
    monkeypatch.setattr(probes, "finish", lambda name, timeout: facts[name])
    monkeypatch.setattr(module, "_wanted", lambda probe: probe in facts)
    findings = {finding.part: finding for finding in module.examine()}
    assert findings["NVIDIA GPU"].status == "works"
    assert "80 GiB" in findings["NVIDIA GPU"].detail
    assert findings["CuPy"].status == "not installed"
    assert f"[{extra}]" in findings["CuPy"].remedy
    assert "libucx" in findings["MPI"].remedy


def test_wrong_sum_on_the_gpu_is_broken(monkeypatch):
    facts = {
        "cpu_path": {"tokens": 8, "seconds": 0.1},
        "simulator": SIMULATOR,
        "blas_library": {"name": "b", "version": "1", "threads": None, "right": True},
        "cuda_driver": {"cuda": "13.0", "devices": [H100]},
        "numba_cuda": {"right": True},
        "cupy": {"right": False},
        "gpu_path": {"error": "CuPyError: no such thing"},
        "mpi": {"error": "crashed with signal 11"},
    }
    monkeypatch.setattr(probes, "start", lambda name: name)
    monkeypatch.setattr(probes, "finish", lambda name, timeout: facts[name])
    monkeypatch.setattr(module, "_wanted", lambda probe: True)
    status = {finding.part: finding.status for finding in module.examine()}
    assert status["Numba CUDA"] == "works"
    assert status["CuPy"] == "broken"
    assert status["GPU path"] == "broken"
    assert status["MPI"] == "broken"


@pytest.mark.parametrize(("right", "status"), [(True, "works"), (False, "broken")])
def test_the_gpu_path_works_if_it_writes_what_the_cpu_writes(right, status):
    facts = {"tokens": 4, "right": right, "seconds": 20.0}
    assert module._gpu_path(facts, has_gpu=True).status == status
    assert module._gpu_path(facts, has_gpu=False).status == "none"
    assert module._gpu_path(None, has_gpu=True).status == "none"


def test_a_kernel_that_comes_out_wrong_breaks_the_simulator():
    assert module._simulator({"right": False, "seconds": 1.0}).status == "broken"
