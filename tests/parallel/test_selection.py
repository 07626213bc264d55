"""Which path carries which array, from offers and measured times."""

import json

import numpy as np
import pytest

from llm_numba.errors import ParallelError
from llm_numba.parallel import Mesh, run_ranks
from llm_numba.parallel.by_size import BySize
from llm_numba.parallel.messages import MessageCommunicator
from llm_numba.parallel.selection import Offer, read_times, select

OFFERS = [Offer("peer", "these ranks see one GPU each"), Offer("near"), Offer("far")]
# Near is quick to begin; far moves ten times as much.
TIMES = {
    "all_reduce": {
        "near": [(100, 1.0), (1_000, 1.0), (10_000, 10.0)],
        "far": [(100, 5.0), (1_000, 5.0), (10_000, 5.0)],
        "peer": [(100, 0.1)],
    }
}


def test_without_times_the_first_that_works_is_taken():
    chosen = select(OFFERS)
    assert {chosen.path_of("all_reduce", size) for size in (1, 10**9)} == {"near"}
    assert chosen.explain() == [
        "everything: near",
        "because: the first that works",
        "not peer: these ranks see one GPU each",
    ]
    assert chosen.used == ("near",)


@pytest.mark.parametrize(
    ("num_bytes", "path"),
    # Between 1,000 and 10,000 near's time grows as the size: both take 5 at 5,000.
    [(1, "near"), (1_000, "near"), (4_990, "near"), (5_010, "far"), (10**6, "far")],
)
def test_with_times_it_is_the_fastest_for_the_size(num_bytes, path):
    assert select(OFFERS, times=TIMES).path_of("all_reduce", num_bytes) == path


def test_what_was_not_measured_goes_by_the_first_that_works():
    chosen = select(OFFERS, times=TIMES, source="some record")
    assert chosen.path_of("send", 10**6) == "near"
    assert chosen.used == ("near", "far")
    assert chosen.explain() == [
        "all_reduce: near to 1,000 bytes, far beyond",
        "all else: near",
        "because: the fastest in some record",
        "not peer: these ranks see one GPU each",
    ]


def test_a_path_that_is_never_the_fastest_is_not_used():
    slower = {"all_reduce": TIMES["all_reduce"] | {"far": [(100, 9.0), (10_000, 90.0)]}}
    assert select(OFFERS, times=slower).used == ("near",)


def test_what_is_wanted_is_taken_whatever_was_measured():
    assert select(OFFERS, "far", TIMES).path_of("all_reduce", 1) == "far"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("peer", "these ranks see one GPU each"), ("pigeon", "there is no such path")],
)
def test_what_does_not_work_is_refused_with_the_reason(wanted, words):
    with pytest.raises(ParallelError, match=f"comm='{wanted}' cannot be used: {words}") as caught:
        select(OFFERS, wanted)
    assert caught.value.remedy == "Choose one of: auto, near, far."


def record(path, rows):
    results = [
        {"shape": dict(zip(("path", "operation", "ranks", "bytes"), row, strict=False)),
         "median": row[4]}
        for row in rows
    ]  # fmt: skip
    path.write_text(json.dumps({"results": results}))
    return path


ROWS = [
    ("mpi", "all_reduce", 2, 64, 1.0),
    ("mpi", "all_reduce", 2, 4096, 9.0),
    ("mpi-staged", "all_reduce", 2, 4096, 3.0),
    ("mpi-staged", "all_reduce", 2, 64, 2.0),
    ("mpi-staged", "all_reduce", 8, 64, 20.0),
    ("mpi-staged", "barrier", 2, 0, 5.0),
    ("mpi-staged", "copy", 2, 64, 0.5),
    ("peer", "send", 2, 64, 0.5),
]


def test_a_record_s_times_are_those_of_as_many_ranks_or_nearly(tmp_path):
    path = record(tmp_path / "comm.json", ROWS)
    few = {"all_reduce": {"mpi": [(64, 1.0), (4096, 9.0)], "mpi-staged": [(64, 2.0), (4096, 3.0)]}}
    assert read_times(path, 2) == read_times(path, 4) == few
    assert read_times(path, 16) == {"all_reduce": {"mpi-staged": [(64, 20.0)]}}


def test_a_graph_of_one_short_call_tells_nothing(tmp_path):
    path = record(tmp_path / "comm.json", ROWS[:2])
    text = json.loads(path.read_text())
    text["results"][0]["shape"] |= {"in_graph": True, "calls": 1}
    path.write_text(json.dumps(text))
    assert read_times(path, 2) == {"all_reduce": {"mpi": [(4096, 9.0)]}}


@pytest.mark.parametrize("text", ["", "{}", '{"results": []}', '{"results": [1]}', None])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "comm.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ParallelError, match="is no record of what ranks' operations take"):
        read_times(path, 2)


def test_each_array_goes_by_its_path_and_is_counted():
    chosen = select([Offer("near"), Offer("far")], times=TIMES)

    def program(comm):
        paths = {"near": comm, "far": MessageCommunicator(comm)}
        both = BySize(comm, paths, chosen)
        short, long = np.ones(10, np.float32), np.ones(10_000, np.float32)
        both.all_reduce(short), both.all_reduce(long), both.all_reduce(short, "max")
        assert short[0] == long[-1] == 3
        gathered = both.all_gather(np.int8([comm.rank]))
        part = both.reduce_scatter(np.arange(3, dtype=np.int32))
        told = both.broadcast(np.int32([comm.rank]), root=2)
        half = both.split(comm.rank // 2)
        half.barrier()
        assert (gathered.tolist(), part.tolist(), told.tolist()) == (
            [0, 1, 2],
            [3 * comm.rank],
            [2],
        )
        return both.name, dict(both.carried), half.name, half.size

    carried = {("all_reduce", "near"): 2, ("all_reduce", "far"): 1, ("all_gather", "near"): 1,
               ("reduce_scatter", "near"): 1, ("broadcast", "near"): 1}  # fmt: skip
    name = "near+far"
    assert run_ranks(3, program) == [
        (name, carried, name, 2),
        (name, carried, name, 2),
        (name, carried, "alone", 1),
    ]


def test_messages_are_counted_on_both_ends():
    chosen = select([Offer("near"), Offer("far")], times={"send": TIMES["all_reduce"]})

    def program(comm):
        both = BySize(comm, {"near": comm, "far": MessageCommunicator(comm)}, chosen)
        x = np.full(10_000, comm.rank, np.float32)
        if comm.rank == 0:
            both.send(x, 1)
        else:
            assert both.receive(x, 0)[0] == 0
        return dict(both.carried)

    assert run_ranks(2, program) == [{("send", "far"): 1}] * 2


def test_threads_have_one_path_whatever_a_record_says(tmp_path):
    path = record(tmp_path / "comm.json", ROWS)
    names = run_ranks(2, lambda comm: Mesh(2, world=comm, comm=str(path)).tensor.name)
    assert names == ["threads", "threads"]


def test_ranks_that_read_different_records_are_told_so(tmp_path):
    one, other = (tmp_path / f"{name}.json" for name in "ab")
    record(one, ROWS), record(other, ROWS[:4])
    with pytest.raises(ParallelError, match="differs from rank 0 in the record"):
        run_ranks(2, lambda comm: Mesh(2, world=comm, comm=str((one, other)[comm.rank])))
