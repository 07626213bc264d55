"""Ranks of MPI that exchange arrays, by each path that a CPU has."""

import json

import numpy as np
import pytest
from ranks import PROGRAMS

from llm_numba.errors import ParallelError
from llm_numba.parallel import staged
from llm_numba.parallel.paths import PATHS_OF_HOSTS


@pytest.mark.parametrize(
    ("ranks", "path"),
    [
        (2, "mpi-staged"),
        (4, "mpi-staged"),
        *(pytest.param(ranks, "mpi", marks=pytest.mark.slow) for ranks in (2, 3, 4)),
    ],
)
def test_ranks_of_mpi_exchange_what_they_should(mpirun, ranks, path):
    """The program holds each result to NumPy's, on each rank; see there."""
    ended = mpirun(ranks, PROGRAMS / "exchanging.py", ranks, path, "cpu")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "all is well"
    assert ended.orphans == []


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_what_was_told_arrives_though_its_teller_waits_for_something_else(mpirun, tmp_path, length):
    """As for a GPU: MPI is not called again before the other rank has answered by a file.

    Only what is short needs to be finished: with a long object that is done.
    """
    script = (
        "import sys, time; from pathlib import Path; from llm_numba.parallel import Mesh\n"
        "heard = Path(sys.argv[1])\n"
        "with Mesh(2) as mesh:\n"
        "    if mesh.is_leader:\n"
        "        mesh.world.tell('x' * int(sys.argv[2]))\n"
        "        if int(sys.argv[2]) < 4000: mesh.world.finish_telling()\n"
        "        while not heard.exists(): time.sleep(0.01)\n"
        "    else:\n"
        "        heard.write_text(str(len(mesh.world.tell(None))))\n"
    )
    # Open MPI's way between processes that may not read each other's memory, as in many containers.
    settings = {"LLM_NUMBA_STALL_S": "20", "OMPI_MCA_smsc": "^cma,xpmem"}
    ended = mpirun(2, "-c", script, tmp_path / "heard", length, **settings)
    assert ended.code == 0, ended.err
    assert (tmp_path / "heard").read_text() == str(length)


def test_an_array_that_mpi_cannot_count_is_refused():
    # Of zeros, which take no memory before they are touched.
    array = np.zeros((1 << 31) // 4, np.float32)
    assert staged._bytes(array[:-1]).nbytes == array.nbytes - 4
    with pytest.raises(ParallelError, match="2147483648 bytes is too large"):
        staged._bytes(array)


def test_what_ranks_say_is_timed_into_a_record_of_rank_0_by_which_others_choose(mpirun, tmp_path):
    path = tmp_path / "comm.json"
    options = ("--samples", "1", "--largest", "256", "--out", path)
    ended = mpirun(2, "-m", "llm_numba", "bench", "comm", *options)
    assert ended.code == 0, ended.err
    record = json.loads(path.read_text())
    assert record["settings"]["ranks"] == 2
    for each in PATHS_OF_HOSTS:
        assert ended.out.count(f"all_reduce, 256 bytes, by {each} ") == 1
    names = [result["name"] for result in record["results"]]
    assert names[0] == "mpi-staged/ranks=2/tell"
    assert names[-1] == "mpi/ranks=2/all_reduce/bytes=256"
    # Which is faster here and now is chance: of the two, one adds faster, the other does the rest.
    for each in record["results"]:
        if each["name"].startswith("mpi/"):
            scale = 1e-3 if "/all_reduce/" in each["name"] else 1e3
            each |= {key: each[key] * scale for key in ("median", "p10", "p90")}
    path.write_text(json.dumps(record))
    script = (
        "import sys; from llm_numba.parallel import Mesh; import numpy as np\n"
        "with Mesh(2, comm=sys.argv[1]) as mesh:\n"
        "    mesh.tensor.all_reduce(np.ones(4, np.float32))\n"
        "    mesh.tensor.all_gather(np.ones(4, np.float32))\n"
        "    if mesh.is_leader: print(mesh.tensor.name, dict(mesh.tensor.carried))\n"
    )
    ended = mpirun(2, "-c", script, path)
    assert ended.code == 0, ended.err
    carried = {("all_reduce", "mpi"): 1, ("all_gather", "mpi-staged"): 1}
    assert ended.out == f"mpi-staged+mpi {carried}\n"
