"""Ranks of MPI that exchange arrays through the host's memory."""

import json

import pytest
from ranks import PROGRAMS


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_mpi_exchange_what_they_should(mpirun, ranks):
    """The program holds each result to NumPy's, on each rank; see there."""
    ended = mpirun(ranks, PROGRAMS / "exchanging.py", ranks)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "all is well"
    assert ended.orphans == []


def test_what_ranks_say_is_timed_into_a_record_of_rank_0(mpirun, tmp_path):
    path = tmp_path / "comm.json"
    options = ("--samples", "1", "--largest", "256", "--out", path)
    ended = mpirun(2, "-m", "llm_numba", "bench", "comm", *options)
    assert ended.code == 0, ended.err
    assert ended.out.count("all_reduce, 256 bytes") == 1
    record = json.loads(path.read_text())
    assert record["settings"]["ranks"] == 2
    assert record["results"][0]["name"] == "mpi-staged/ranks=2/tell"
    assert record["results"][-1]["name"] == "mpi-staged/ranks=2/all_reduce/bytes=256"
