"""Ranks of MPI that exchange arrays through the host's memory."""

import pytest
from ranks import PROGRAMS


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_mpi_exchange_what_they_should(mpirun, ranks):
    """The program holds each result to NumPy's, on each rank; see there."""
    ended = mpirun(ranks, PROGRAMS / "exchanging.py", ranks)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "all is well"
    assert ended.orphans == []
