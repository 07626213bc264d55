"""What ranks find out about themselves, with stand-ins for GPUs."""

import threading

import pytest

from llm_numba.errors import ParallelError
from llm_numba.parallel import Mesh, examining, measured, mesh, run_ranks
from llm_numba.parallel.examining import examine
from llm_numba.runtime import gpu_problem
from llm_numba.runtime.gpu_links import GPULink

A, B = "a" * 32, "b" * 32


def facts_of(world):
    found = {}
    for fact in examine(Mesh(world.size, world=world)):
        found |= {fact["tried"]: fact["problem"]} if "tried" in fact else fact
    return found


@pytest.fixture(name="gpus")
def _gpus(monkeypatch):
    """Two GPUs that nothing can be computed on."""
    monkeypatch.setattr(examining, "gpu_problem", lambda: None)
    for module in (examining, mesh):
        monkeypatch.setattr(module, "visible_gpus", lambda: (A, B))
    monkeypatch.setattr(mesh, "use_gpu", lambda number: None)
    for module in (examining, measured):
        monkeypatch.setattr(module, "gpu_name", lambda gpu: "NVIDIA Example")
        monkeypatch.setattr(module, "gpu_link", lambda *pair: GPULink("nvlink", readable=True))
    monkeypatch.setattr(examining, "_try", lambda *arguments: "")


def test_ranks_without_gpus_try_their_paths_on_the_host():
    first, other = run_ranks(2, facts_of)
    assert first == other
    assert len(first["ranks"]) == 2
    assert first["gpus"] == []
    assert first["no_gpus"] == gpu_problem()
    assert (first["offers"], first["threads"]) == ({"threads": ""}, "")
    assert first["chosen"][0] == "everything: threads"


def test_ranks_with_gpus_name_them_and_their_link(gpus):
    first, other = run_ranks(2, facts_of)
    assert first == other
    assert (first["gpus"], first["seen"]) == (["NVIDIA Example"] * 2, [2, 2])
    assert first["links"] == [{"ranks": [0, 1], "kind": "nvlink", "readable": True}]
    assert first["device"] == "cuda"


def test_more_ranks_than_gpus_fall_back_to_the_host(gpus):
    found = run_ranks(3, facts_of)[0]
    assert found["no_gpus"].startswith("3 ranks run on")
    assert found["device"] == "cpu"


def test_a_rank_whose_gpu_does_not_work_is_named(gpus, monkeypatch):
    def program(world):
        mine.rank = world.rank
        return facts_of(world)

    mine = threading.local()
    monkeypatch.setattr(examining, "gpu_problem", lambda: "it is broken" if mine.rank else None)
    assert [each["no_gpus"] for each in run_ranks(2, program)] == ["on rank 1 it is broken"] * 2


@pytest.mark.parametrize(
    ("helps", "asked"), [(True, True), (False, False)], ids=["they help", "they do not"]
)
def test_settings_are_tried_where_mpi_takes_no_arrays_of_gpus(gpus, monkeypatch, helps, asked):
    offers = [examining.Offer("mpi", "it crashed"), examining.Offer("threads")]
    monkeypatch.setattr(Mesh, "offers", lambda *arguments: offers)
    settings = {"OMPI_MCA_pml": "ucx"}
    monkeypatch.setattr(examining, "ucx_settings", lambda: settings)
    monkeypatch.setattr(
        examining, "messages_problem", lambda **given: "" if given == settings and helps else "no"
    )
    assert (run_ranks(2, facts_of)[0].get("settings") == settings) is asked


def test_a_path_that_does_not_connect_or_adds_wrongly_says_so(monkeypatch):
    def fails(*arguments):
        raise ParallelError("The memory cannot be mapped.", "Take another path.")

    monkeypatch.setattr(examining, "connect", fails)
    assert run_ranks(2, facts_of)[0]["threads"] == "The memory cannot be mapped."


def test_sums_that_come_out_wrong_are_noticed_on_all_ranks(monkeypatch):
    class Wrong:
        rank, size = 0, 2

        def __init__(self, comm):
            self.rank, self._comm = comm.rank, comm

        def all_reduce(self, x):
            self._comm.all_reduce(x)
            x[-1] += self.rank  # on one rank alone

        def __getattr__(self, name):
            return getattr(self._comm, name)

    monkeypatch.setattr(examining, "connect", lambda group, *rest: Wrong(group))
    assert [each["threads"] for each in run_ranks(2, facts_of)] == ["its sums are wrong"] * 2
