"""``llm-numba doctor --mpi``: with an MPI, without one, and with launchers that do not fit it."""

import json
from pathlib import Path

import pytest
from ranks import environment
from typer.testing import CliRunner

from llm_numba.cli import doctor_mpi, doctor_ranks, probes
from llm_numba.cli.app import app
from llm_numba.cli.doctor_ranks import judge
from llm_numba.cli.findings import Finding
from llm_numba.parallel import launch
from llm_numba.parallel.gpus import Sight, hidden_gpu

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
        launch.launcher_version.cache_clear()
        return path

    yield write
    launch.launcher_version.cache_clear()


def examine(timeout_s: float = 60.0) -> dict[str, Finding]:
    return {finding.part: finding for finding in doctor_mpi.examine_mpi(timeout_s)}


def rows(*facts: dict, problem: str = "") -> dict[str, Finding]:
    return {each.part: each for each in judge(facts, problem, "mpirun -n 2 program")}


def test_two_ranks_meet_and_try_what_carries_arrays(mpirun):
    result = CliRunner().invoke(app, ["doctor", "--mpi", "--json"])
    assert result.exit_code == 0, result.output
    found = {finding["part"]: finding for finding in json.loads(result.stdout)}
    assert found["Ranks meet"]["detail"] == "2 ranks on this machine"
    assert found["Ranks meet"]["facts"]["tries"] == {"mpi-staged": "", "mpi": ""}
    assert found["MPI"]["facts"]["library"]
    assert found["Launcher"]["status"] == "works"
    assert found["mpi"]["detail"] == "arrays of the host arrive, and sums are right"
    assert (found["peer"]["status"], found["peer"]["remedy"]) == ("none", None)
    assert found["GPUs"]["detail"].startswith("arrays are the host's: ")
    assert found["--comm auto"]["detail"].startswith("everything: mpi-staged; because: the first")


def test_ranks_that_mpirun_has_started_are_those_that_are_examined(mpirun):
    ended = mpirun(3, "-m", "llm_numba", "doctor", "--mpi", "--json")
    assert ended.code == 0, ended.err
    found = {finding["part"]: finding for finding in json.loads(ended.out)}
    assert found["Ranks meet"]["detail"] == "3 ranks on this machine"
    assert found["Launcher"]["detail"] == "Open MPI's mpirun has started 3 ranks"
    assert found["mpi-staged"]["status"] == "works"


def test_ranks_of_a_launcher_that_do_not_find_each_other_are_told(mpirun, monkeypatch):
    # One program that was started as one of two, by no launcher that this MPI knows.
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    result = CliRunner().invoke(app, ["doctor", "--mpi"])
    assert result.exit_code == 1
    words = " ".join(result.stdout.split())
    assert "each takes itself for the only one" in words
    assert "MPI4PY_LIBMPI" in words


def test_without_mpi_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor_mpi, "installed_version", lambda name: "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(launch.sys, "executable", "/nowhere/python")
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
     ("exec sleep 60", "no answer within 1.5 s"),
     ("exit 0", "they ended without a word")],
)  # fmt: skip
def test_a_launcher_that_fails_is_quoted(monkeypatch, fake_mpirun, script, error):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    fake_mpirun(script)
    found = examine(0.5 if "sleep" in script else 30)
    assert (found["Ranks meet"].status, found["Ranks meet"].detail) == ("broken", error)


def test_where_there_is_no_ssh_open_mpi_4_is_told_so(monkeypatch, tmp_path, fake_mpirun):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    path = fake_mpirun("echo plm=$OMPI_MCA_plm >&2; exit 1\n")
    path.write_text(path.read_text().replace("fake 1.0", "mpirun (Open MPI) 4.1.4"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine()
    assert found["ssh"].remedy == "export OMPI_MCA_plm='^rsh'"
    assert found["Ranks meet"].detail == "plm=^rsh"
    monkeypatch.setenv("OMPI_MCA_plm", "slurm")
    found = examine()
    assert "ssh" not in found
    assert found["Ranks meet"].detail == "plm=slurm"
    monkeypatch.delenv("OMPI_MCA_plm")
    (tmp_path / "ssh").write_text("#!/bin/sh\n")
    (tmp_path / "ssh").chmod(0o755)
    found = examine()
    assert "ssh" not in found
    assert found["Ranks meet"].detail == "plm="


def test_a_launcher_that_does_not_start_is_quoted(monkeypatch, fake_mpirun):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    path = fake_mpirun("")
    path.write_text("#!/nowhere/sh\n")
    found = examine()["Launcher"]
    assert found.status == "not installed"
    assert found.detail.startswith(f"{path} does not start")


def test_a_launcher_that_is_not_on_path_but_beside_python_is_used_and_shown(
    monkeypatch, tmp_path, fake_mpirun
):
    monkeypatch.setattr(doctor_mpi, "_library", lambda timeout: MPI)
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    assert "pip install" in examine()["Launcher"].remedy
    fake_mpirun("echo it was used >&2; exit 1\n")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = examine()
    assert found["Launcher"].remedy == f"export PATH={tmp_path}:$PATH"
    assert "not on PATH" in found["Launcher"].detail
    assert found["Ranks meet"].detail == "it was used"


# -- What ranks with GPUs find --------------------------------------------------------------------

RANKS = {"ranks": ["node"] * 2}
GPUS = {"gpus": ["NVIDIA Example"] * 2, "seen": [2, 2], "no_gpus": ""}
LINKS = {"links": [{"ranks": [0, 1], "kind": "nvlink", "readable": True}]}
CHOSEN = {"chosen": ["all_reduce: peer to 65,536 bytes, nccl beyond", "because: so it was",
                     "not mpi: it crashed"]}  # fmt: skip


def offers(**problems: str) -> dict:
    paths = ("peer", "nccl", "mpi", "mpi-staged")
    found = {path: problems.get(path.replace("-", "_"), "") for path in paths}
    return {"offers": found, "device": "cuda"}


def tried(**problems: str) -> list[dict]:
    return [{"tried": path, "problem": problem} for path, problem in problems.items()]


def test_gpus_links_and_paths_have_a_row_each():
    found = rows(RANKS, GPUS, LINKS, offers(mpi="it crashed"), *tried(peer="", nccl=""), CHOSEN)
    assert found["GPUs"].detail.startswith("rank 0: NVIDIA Example, one of 2 that it sees; rank 1")
    assert found["Links"].detail == "ranks 0-1: NVLink, each reads the other's memory"
    assert found["peer"].detail == "arrays of GPUs arrive, and sums are right"
    assert (found["mpi"].status, found["mpi"].detail) == ("none", "it crashed")
    assert found["--comm auto"].detail == (
        "all_reduce: peer to 65,536 bytes, nccl beyond; because: so it was"
    )


def test_links_that_differ_are_told_pair_by_pair():
    kinds = [("nvlink", True), ("pcie-sockets", False), ("", None)]
    pairs = [[0, 1], [0, 2], [1, 2]]
    links = [{"ranks": pair, "kind": kind, "readable": readable}
             for pair, (kind, readable) in zip(pairs, kinds, strict=True)]  # fmt: skip
    found = rows({"ranks": ["node"] * 3}, {"links": links}, offers(), CHOSEN)["Links"]
    assert found.detail == (
        "0-1: NVLink, each reads the other's memory; 0-2: PCIe, from socket to socket, no reading "
        "across; 1-2: the driver does not say"
    )
    same = [link | {"kind": "nvlink", "readable": True} for link in links]
    all_pairs = rows(RANKS, {"links": same}, offers(), CHOSEN)["Links"]
    assert all_pairs.detail == "all pairs: NVLink, each reads the other's memory"


def test_gpus_that_a_batch_system_hides_are_explained_and_what_to_say_to_it():
    views = [Sight("node", ("a",)), Sight("node", ("b",))]
    hidden = hidden_gpu(views, ["a", "b"], [0, 1])
    found = rows(RANKS, GPUS | {"seen": [1, 1]}, offers(peer=hidden), CHOSEN)
    assert "one of 1 that it sees" in found["GPUs"].detail
    assert "does not see the GPU of rank 1" in found["peer"].detail
    assert "--gpu-bind=none" in found["peer"].remedy
    far = hidden_gpu([Sight("node", ("a",)), Sight("edon", ("b",))], ["a", "b"], [0, 1])
    assert rows(RANKS, offers(peer=far), CHOSEN)["peer"].remedy is None


def test_more_ranks_than_gpus_are_told():
    problem = "2 ranks run on node, which shows them 1 GPU; each rank needs one of its own."
    host = offers() | {"device": "cpu"}
    found = rows(RANKS, {"gpus": [], "no_gpus": problem}, host, *tried(mpi=""), CHOSEN)
    assert (found["GPUs"].status, problem in found["GPUs"].detail) == ("none", True)
    assert found["mpi"].detail == "arrays of the host arrive, and sums are right"


def test_settings_with_which_mpi_takes_arrays_of_gpus_are_told(monkeypatch):
    settings = {"settings": {"OMPI_MCA_pml": "ucx", "LD_LIBRARY_PATH": "/a b"}}
    found = rows(RANKS, offers(mpi="it crashed"), settings, CHOSEN)["mpi"]
    assert found.remedy == "export OMPI_MCA_pml=ucx LD_LIBRARY_PATH='/a b'"
    for spec, remedy in ((None, "libucx"), ("there", None)):
        monkeypatch.setattr(doctor_ranks.importlib.util, "find_spec", lambda name, spec=spec: spec)
        found = rows(RANKS, offers(mpi="it crashed"), CHOSEN)["mpi"]
        assert remedy is None or remedy in found.remedy


def test_a_path_whose_numbers_are_wrong_is_broken():
    found = rows(RANKS, offers(), *tried(nccl="its sums are wrong"), CHOSEN)["nccl"]
    assert (found.status, found.detail) == ("broken", "its sums are wrong")


def test_the_path_at_which_ranks_ended_is_named():
    found = rows(RANKS, GPUS, offers(), *tried(peer=""), problem="crashed with signal 11")
    assert found["peer"].status == "works"
    assert found["nccl"].detail == "ranks ended while they tried it: crashed with signal 11"
    assert found["mpi"].detail == "not tried: the ranks had ended"
    assert (found["--comm auto"].status, found["--comm auto"].remedy) == (
        "broken",
        "mpirun -n 2 program",
    )


def test_what_a_program_wrote_before_it_was_ended_is_kept():
    child = probes.start_program(["sh", "-c", "echo '{\"a\": 1}'; echo words; exec sleep 60"])
    assert probes.finish_program(child, 2.0) == ([{"a": 1}], "no answer within 2 s")
