"""What is tried before arrays of GPUs go to MPI, and which paths there are then."""

import re

import pytest

from llm_numba.parallel import Alone, paths, probing
from llm_numba.parallel.paths import offers_between
from llm_numba.parallel.selection import select


@pytest.fixture(name="tried")
def _tried(tmp_path, monkeypatch):
    """What is found with a shell script for a launcher; it runs no ranks."""
    monkeypatch.setattr(probing.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def problem(script: str | None, limit_s: float = 30.0) -> str:
        if script is not None:
            asked = 'if [ "$1" = --version ]; then echo fake; exit; fi'
            (tmp_path / "mpirun").write_text(f"#!/bin/sh\n{asked}\n{script}\n")
            (tmp_path / "mpirun").chmod(0o755)
        return probing.messages_problem.__wrapped__(limit_s)

    return problem


def test_messages_that_were_right_are_no_problem(tried):
    assert tried(f"echo {probing._RIGHT!r}") == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -11 $$", "MPI does not take arrays of GPUs: .* exit code -11"),
        ("echo nothing", "MPI does not take arrays of GPUs: .* exit code 0"),
        ("exec sleep 60", "did not end: .*timed out"),
    ],
)
def test_ranks_that_crash_or_stall_or_find_changed_numbers_are_a_problem(tried, script, words):
    assert re.search(words, tried(script, 0.5 if "sleep" in script else 30.0))


def test_without_a_launcher_nothing_can_be_tried(tried, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tried(None) == "it cannot be tried: There is no mpirun."


def test_ranks_that_try_it_hear_nothing_of_this_program_s_launcher(tried, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_MCA_pml", "ucx")
    script = '[ -z "$OMPI_COMM_WORLD_SIZE" ] && [ "$OMPI_MCA_pml" = ucx ]'
    assert tried(f"{script} && echo {probing._RIGHT!r}") == ""


# -- Which paths there are then -----------------------------------------------------------------


class _Ranks(Alone):
    """Stands for ranks of MPI."""

    name = "mpi-staged"


@pytest.fixture(name="machine")
def _machine(monkeypatch):
    """Offers on a machine where NCCL and MPI have these problems; how often MPI was tried."""

    def offers(nccl: str, mpi: str, wanted: str):
        tries = []
        monkeypatch.setattr(paths, "nccl_problem", lambda: nccl)
        monkeypatch.setattr(paths, "messages_problem", lambda: tries.append(1) or mpi)
        offers = offers_between(_Ranks(), "cuda", wanted, hidden="they are hidden")
        return offers, len(tries)

    return offers


def test_mpi_is_tried_only_if_somebody_needs_it(machine):
    offers, tries = machine("", "it crashed", "auto")
    assert (select(offers).paths[0], tries) == ("nccl", 0)
    offers, tries = machine("", "it crashed", "record.json")
    assert (select(offers).paths, tries) == (("nccl", "mpi-staged"), 1)
    offers, tries = machine("no library", "", "auto")
    assert (select(offers).paths[0], tries) == ("mpi", 1)


def test_gpus_that_see_each_other_are_read_by_our_own_kernels(monkeypatch):
    monkeypatch.setattr(paths, "nccl_problem", lambda: "")
    assert select(offers_between(_Ranks(), "cuda")).paths[0] == "peer"


def test_where_nothing_better_works_the_host_s_memory_does(machine):
    offers, _ = machine("no library", "it crashed", "auto")
    chosen = select(offers)
    assert chosen.paths == ("mpi-staged",)
    refused = {"peer": "they are hidden", "nccl": "on rank 0 no library", "mpi": "it crashed"}
    assert chosen.refused == refused


def test_arrays_of_the_host_go_by_no_path_of_gpus():
    offers = {offer.path: offer.problem for offer in offers_between(_Ranks())}
    assert offers["mpi-staged"] == offers["mpi"] == ""
    assert offers["nccl"] == "it moves arrays of GPUs, and these are the host's"
