"""``llm-numba doctor --mpi``: with an MPI, without one, and with launchers that do not fit it."""

import json
from pathlib import Path

import pytest
from ranks import environment
from typer.testing import CliRunner

from llm_numba.cli import doctor_mpi, probes
from llm_numba.cli.app import app
from llm_numba.cli.findings import Finding

MPI = Finding("MPI", "works", "some MPI")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(name="fake_mpirun")
def _fake_mpirun(tmp_path, monkeypatch):
    """Put a shell script on PATH, before any other mpirun."""

    def write(script: str) -> Path:
        path = tmp_path / "mpirun"
        path.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "fake 1.0"; exit; fi\n{script}'
        )
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return path

    return write


def examine(timeout_s: float = 60.0) -> dict[str, Finding]:
    return {finding.part: finding for finding in doctor_mpi.examine_mpi(timeout_s)}


def test_two_ranks_meet(mpirun, monkeypatch):
    # Doctor may itself run under a launcher.
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "7")
    result = CliRunner().invoke(app, ["doctor", "--mpi", "--json"])
    assert result.exit_code == 0, result.output
    found = {finding["part"]: finding for finding in json.loads(result.stdout)}
    assert found["Ranks meet"]["facts"] == {"size": 2, "right": True}
    assert found["MPI"]["facts"]["library"]
    assert found["Launcher"]["status"] == "works"
    assert found["MPI from GPUs"]["status"] == "none"


def test_without_mpi_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor_mpi, "installed_version", lambda name: "")
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(app, ["doctor", "--mpi"])
    assert result.exit_code == 1
    assert "not installed" in result.stdout
    assert "[mpi]'" in result.stdout
    assert "Several ranks do not work." in result.stderr


def test_a_launcher_of_another_mpi_is_found_out(mpirun, fake_mpirun):
    # It starts the programs, and tells them nothing that this MPI reads.
    path = fake_mpirun('shift 2\n"$@" & "$@"; wait\n')
    found = examine()
    assert found["Launcher"].detail == f"{path}, fake 1.0"
    assert found["Ranks meet"].status == "broken"
    assert "each takes itself for the only one" in found["Ranks meet"].detail
    assert "MPI4PY_LIBMPI" in found["Ranks meet"].remedy


@pytest.mark.parametrize(
    ("script", "error"),
    [("echo ------ >&2; echo 'no slots for you.' >&2; echo ----- >&2; exit 1", "no slots for you."),
     ("kill -11 $$", "crashed with signal 11"),
     ("exec sleep 60", "no answer within 0.5 s")],
)  # fmt: skip
def test_a_launcher_that_fails_is_quoted(monkeypatch, fake_mpirun, script, error):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    fake_mpirun(script)
    found = examine(0.5 if "sleep" in script else 30)
    assert (found["Ranks meet"].status, found["Ranks meet"].detail) == ("broken", error)


def test_a_launcher_that_is_not_on_path_but_beside_python_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(doctor_mpi.sys, "executable", str(tmp_path / "python"))
    assert "pip install" in examine()["Launcher"].remedy
    (tmp_path / "mpirun").touch()
    found = examine()
    assert found["Launcher"].remedy == f"export PATH={tmp_path}:$PATH"
    assert found["Ranks meet"].status == "none"


# -- With a GPU ---------------------------------------------------------------------------------


@pytest.fixture(name="gpu")
def _gpu(monkeypatch, fake_mpirun):
    """Ranks that meet on a machine with GPUs; what its probes answer, with UCX and without."""
    fake_mpirun("exit 1")
    answers = {}
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    monkeypatch.setattr("llm_numba.runtime.gpu_problem", lambda: None)
    monkeypatch.setattr(
        probes,
        "start",
        lambda name, launcher, variables: (name, variables.get("OMPI_MCA_pml") == "ucx"),
    )
    monkeypatch.setattr(probes, "finish", lambda child, timeout: answers[child])
    answers["mpi_ranks", False] = {"size": 2, "right": True}
    return answers


CRASH = {"error": "crashed with signal 11"}
RIGHT = {"size": 2, "right": True}
WRONG = {"size": 2, "right": False}


@pytest.mark.parametrize(("sums", "told"), [(CRASH, "sums fail"), (WRONG, "sums fail"),
                                            (RIGHT, "sums are right")])  # fmt: skip
def test_an_mpi_that_takes_arrays_of_gpus_may_still_not_add_them(gpu, sums, told):
    gpu.update({("mpi_gpu_messages", False): RIGHT, ("mpi_gpu_sums", False): sums})
    found = examine()["MPI from GPUs"]
    assert (found.status, found.remedy) == ("works", None)
    assert told in found.detail


def test_settings_with_which_it_works_are_told(gpu):
    gpu.update({("mpi_gpu_messages", False): CRASH, ("mpi_gpu_messages", True): RIGHT})
    gpu["mpi_gpu_sums", True] = CRASH
    found = examine()["MPI from GPUs"]
    assert found.status == "works"
    assert found.remedy.startswith("export OMPI_MCA_pml=ucx OMPI_MCA_osc=ucx")


@pytest.mark.parametrize(("facts", "problem"), [(CRASH, "signal 11"), (WRONG, "arrived changed")])
def test_an_mpi_that_takes_no_arrays_of_gpus_is_not_used_for_them(gpu, facts, problem):
    gpu.update({("mpi_gpu_messages", False): facts, ("mpi_gpu_messages", True): CRASH})
    found = examine()["MPI from GPUs"]
    assert found.status == "broken"
    assert problem in found.detail
    assert "go through main memory" in found.detail
    assert "libucx" in found.remedy
