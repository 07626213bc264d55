"""Which table holds for which machine, and what ``auto`` makes of it."""

import pytest

from llm_numba.errors import ParallelError
from llm_numba.parallel import Mesh, measured, mesh, paths, run_ranks
from llm_numba.parallel.measured import MachineKind, TimesTable, find_table, kind_of_machine
from llm_numba.parallel.paths import choose
from llm_numba.parallel.selection import Offer
from llm_numba.runtime.gpu_links import GPULink

KIND = MachineKind("NVIDIA Example", 2, "nvlink")
SOURCE = {"file": "comm_x.json", "date": "2030-01-31", "commit": "abc"}
# Ours is quick to begin, the library's moves more; MPI would be best of all beyond 10,000 bytes.
TIMES = {
    "all_reduce": {
        "peer": [(64, 4.0), (65_536, 40.0)],
        "nccl": [(64, 6.0), (65_536, 10.0)],
        "mpi": [(64, 20.0), (65_536, 5.0)],
    }
}
TABLE = TimesTable(KIND, SOURCE, TIMES)
ALL = [Offer(path) for path in ("peer", "nccl", "mpi", "mpi-staged")]


@pytest.mark.parametrize(
    ("names", "links", "kind"),
    [
        (["X", "X"], ["nvlink"], MachineKind("X", 2, "nvlink")),
        (["X", "X", "X"], ["nvlink", "pcie-host", "nvlink"],
         MachineKind("X", 3, "nvlink+pcie-host")),
        (["X", "Y"], ["nvlink"], MachineKind("", 2, "nvlink")),
        (["X", "X"], [None], MachineKind("X", 2, "")),
        (["X", "X", "X"], ["nvlink", None, "nvlink"], MachineKind("X", 3, "")),
    ],
)  # fmt: skip
def test_a_machine_is_known_by_its_gpus_and_all_links_between_them(monkeypatch, names, links, kind):
    answers = iter(links)
    monkeypatch.setattr(measured, "gpu_name", lambda gpu: names[int(gpu)])

    def link(one, other):
        found = next(answers)
        return found and GPULink(found, readable=True)

    monkeypatch.setattr(measured, "gpu_link", link)
    found = kind_of_machine([str(number) for number in range(len(names))])
    assert found == kind
    assert found.is_known == bool(kind.gpu and kind.links)


def test_a_table_holds_for_its_own_kind_of_machine_alone(monkeypatch):
    monkeypatch.setattr(measured, "packaged_tables", lambda: (TABLE,))
    assert find_table(KIND) is TABLE
    for other in (
        MachineKind("NVIDIA Other", 2, "nvlink"),
        MachineKind("NVIDIA Example", 4, "nvlink"),
        MachineKind("NVIDIA Example", 2, "pcie-host"),
    ):
        assert find_table(other) is None


def test_a_table_is_read_as_it_was_written():
    assert TimesTable.from_json(TABLE.to_json()) == TABLE


def test_auto_takes_the_fastest_path_that_a_graph_can_hold():
    chosen = choose("auto", ALL, 2, TABLE)
    assert chosen.path_of("all_reduce", 64) == "peer"
    assert chosen.path_of("all_reduce", 65_536) == "nccl"
    assert chosen.used == ("peer", "nccl")
    assert chosen.reason == (
        "the fastest in comm_x.json, of 2 ranks on NVIDIA Example, joined by nvlink"
    )


def test_where_no_graph_can_hold_any_the_table_still_chooses():
    offers = [Offer("peer", "hidden"), Offer("nccl", "no library"), Offer("mpi"),
              Offer("mpi-staged")]  # fmt: skip
    chosen = choose("auto", offers, 2, TABLE)
    assert chosen.used == ("mpi",)
    assert set(chosen.refused) == {"peer", "nccl"}


@pytest.mark.parametrize(("comm", "table"), [("auto", None), ("nccl", TABLE)])
def test_without_a_table_or_with_a_wish_there_is_one_path_for_all(comm, table):
    chosen = choose(comm, ALL, 2, table)
    assert chosen.used == ("peer" if comm == "auto" else comm,)
    assert chosen.times == {}


# -- What a mesh does with a choice ---------------------------------------------------------------


@pytest.fixture(name="made")
def _made(monkeypatch):
    """Two paths are offered between threads, of which the first breaks when it is taken."""

    def make(path, group, device, working):
        if path == "peer":
            raise ParallelError("The memory cannot be mapped.", "Take another path.")
        return group

    offers = [Offer("peer"), Offer("threads")]
    monkeypatch.setattr(Mesh, "offers", lambda *arguments: offers)
    monkeypatch.setattr(paths, "_made", make)


def test_a_path_that_breaks_is_done_without_and_that_is_said(made):
    def program(world):
        lines = []
        mesh = Mesh(2, world=world, explain=lines.append)
        return mesh.tensor.name, lines

    leader, other = run_ranks(2, program)
    said = ["everything: threads", "because: the first that works",
            "not peer: The memory cannot be mapped."]  # fmt: skip
    assert leader == ("threads", [f"tensor ranks, arrays of cpu: {line}" for line in said])
    assert other == ("threads", [])


def test_a_path_that_was_asked_for_may_not_break(made, monkeypatch):
    monkeypatch.setattr(mesh, "PATHS_OF_HOSTS", ("peer",))
    with pytest.raises(ParallelError, match="cannot be mapped"):
        run_ranks(2, lambda world: Mesh(2, world=world, comm="peer"))


def test_the_last_path_there_is_may_not_break(made, monkeypatch):
    def broken(*arguments):
        raise ParallelError("The cable is cut.", "Mend it.")

    monkeypatch.setattr(paths, "_made", broken)
    with pytest.raises(ParallelError, match="The cable is cut"):
        run_ranks(2, lambda world: Mesh(2, world=world))
