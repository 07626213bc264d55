"""Ranks as threads: what each operation means, and how mistakes end."""

import threading
import time
from contextvars import ContextVar

import ml_dtypes
import numpy as np
import pytest

from llm_numba.errors import LLMNumbaError, ParallelError
from llm_numba.parallel import Alone, run_ranks
from llm_numba.runtime import kind_of, to_device, to_host

FORMATS = ["float32", "float64", "float16", ml_dtypes.bfloat16, "int32", "int64"]


def values_of(rank, shape, dtype, seed=0):
    """Numbers whose sum shows the order in which they were added."""
    rng = np.random.default_rng([seed, rank])
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-2, 3, shape)).astype(dtype)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: np.dtype(d).name)
def test_all_reduce_adds_in_the_order_of_ranks_and_rounds_once(ranks, dtype):
    parts = [values_of(rank, (5, 3), dtype) for rank in range(ranks)]
    wide = np.float32 if np.dtype(dtype).itemsize == 2 else dtype
    expected = parts[0].astype(wide)
    for part in parts[1:]:
        expected = expected + part.astype(wide)
    expected = expected.astype(dtype)

    def program(comm):
        x = parts[comm.rank].copy()
        assert comm.all_reduce(x) is x
        return x

    for result in run_ranks(ranks, program):
        assert result.dtype == dtype
        assert result.tobytes() == expected.tobytes()


def test_the_largest_element_of_all_ranks_is_nan_if_one_is():
    parts = [np.float32([1, 5, np.nan, -np.inf]), np.float32([2, 4, 0, -7])]
    results = run_ranks(2, lambda comm: comm.all_reduce(parts[comm.rank].copy(), "max"))
    for result in results:
        assert np.array_equal(result, np.float32([2, 5, np.nan, -7]), equal_nan=True)


@pytest.mark.parametrize("dtype", [*FORMATS, "bool"], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(1,), (3, 2), (0, 4), (2, 0)], ids=str)
def test_gathering_puts_rank_0_first_and_scattering_undoes_it(dtype, shape):
    parts = [values_of(rank, shape, dtype) for rank in range(3)]
    whole = np.concatenate(parts)

    def program(comm):
        gathered = comm.all_gather(parts[comm.rank])
        if dtype == "bool":
            return gathered, parts[comm.rank]
        # A whole that only rank 1 holds: the sum is the whole.
        return gathered, comm.reduce_scatter(whole if comm.rank == 1 else np.zeros_like(whole))

    for rank, (gathered, part) in enumerate(run_ranks(3, program)):
        assert gathered.dtype == whole.dtype
        assert np.array_equal(gathered, whole)
        assert np.array_equal(part, parts[rank])


@pytest.mark.parametrize("root", [0, 2])
def test_broadcast_gives_all_what_one_has(root):
    def program(comm):
        x = np.full((2, 3), comm.rank, np.int32)
        assert comm.broadcast(x, root) is x
        return x

    for x in run_ranks(3, program):
        assert np.array_equal(x, np.full((2, 3), root))


def test_messages_arrive_in_order_and_the_sender_may_go_on():
    def program(comm):
        if comm.rank == 0:
            transfers = [comm.start_send(np.float32([i, i]), to=1) for i in range(3)]
            return [transfer.wait()[0] for transfer in transfers]
        transfers = [comm.start_receive(np.empty(2, np.float32), source=0) for _ in range(3)]
        return [transfer.wait()[0] for transfer in reversed(transfers)]

    assert run_ranks(2, program) == [[0, 1, 2], [2, 1, 0]]


def test_a_ring_passes_arrays_of_the_simulator_on():
    def program(comm):
        x = to_device(np.full(3, comm.rank, np.float16), "sim")
        out = to_device(np.zeros(3, np.float16), "sim")
        transfer = comm.start_send(x, (comm.rank + 1) % comm.size)
        comm.receive(out, (comm.rank - 1) % comm.size)
        transfer.wait()
        return out, comm.all_gather(out), comm.all_reduce(out)

    for rank, (out, gathered, total) in enumerate(run_ranks(3, program)):
        assert {kind_of(out), kind_of(gathered), kind_of(total)} == {"sim"}
        assert np.array_equal(to_host(gathered)[::3], [2, 0, 1]), rank
        assert np.array_equal(to_host(total), [3, 3, 3])


def test_objects_are_told_as_copies():
    def program(comm):
        mine = {"rank": comm.rank}
        told = comm.tell(mine, root=1)
        told["rank"] += comm.rank
        return told["rank"], [each["rank"] for each in comm.exchange(mine)]

    assert run_ranks(3, program) == [(1, [0, 1, 2]), (2, [0, 1, 2]), (3, [0, 1, 2])]


def test_groups_of_a_split_do_not_disturb_each_other():
    def program(comm):
        column = comm.split(comm.rank % 2)
        row = comm.split(comm.rank // 2)
        again = row.split(0)
        assert (column.rank, column.size) == (comm.rank // 2, 2)
        assert (row.rank, row.size) == (comm.rank % 2, 2)
        mine = np.int64([10**comm.rank])
        return int(column.all_reduce(mine.copy())[0]), int(again.all_reduce(mine.copy())[0])

    assert run_ranks(4, program) == [(101, 11), (1010, 11), (101, 1100), (1010, 1100)]


def test_ranks_see_the_context_of_the_caller():
    setting = ContextVar("setting")
    token = setting.set("here")
    try:
        assert run_ranks(2, lambda comm: setting.get()) == ["here", "here"]
    finally:
        setting.reset(token)


# -- Mistakes -----------------------------------------------------------------------------------


def test_the_error_of_one_rank_ends_all_and_is_raised():
    ended = []

    def program(comm):
        if comm.rank == 1:
            raise KeyError("broken")
        try:
            comm.tell(None, root=1, patient=True)
        except ParallelError as error:
            ended.append(str(error))
            raise

    with pytest.raises(KeyError, match="broken"):
        run_ranks(3, program)
    assert len(ended) == 2
    assert all("Rank 1 has failed: KeyError('broken')" in text for text in ended)


def test_a_rank_that_calls_something_else_is_named():
    def program(comm):
        x = np.zeros((2, 3), np.float32)
        return comm.all_reduce(x if comm.rank != 1 else x[:1])

    with pytest.raises(
        ParallelError, match=r"Rank \d calls all_reduce of .x3 float32 sum, another"
    ):
        run_ranks(3, program)


def test_a_rank_that_returns_early_is_named():
    with pytest.raises(ParallelError, match="Rank 2 returned without taking part in barrier"):
        run_ranks(3, lambda comm: comm.barrier() if comm.rank < 2 else None)


def test_a_rank_that_stalls_is_named():
    stop = threading.Event()

    def program(comm):
        part = comm.split(comm.rank // 2)
        if comm.rank == 3:
            stop.wait(60)
        part.barrier()
        comm.barrier()

    begin = time.monotonic()
    with pytest.raises(ParallelError, match=r"Rank 3 did not come to barrier within 1 s\."):
        run_ranks(4, program, limit_s=1)
    stop.set()
    # The limit, and the time that stragglers are given; not the 60 seconds of rank 3.
    assert time.monotonic() - begin < 30


def test_a_rank_that_is_waited_for_with_patience_has_not_stalled():
    def program(comm):
        if comm.rank == 0:
            time.sleep(0.4)
        step = comm.tell("step" if comm.rank == 0 else None, patient=True)
        if comm.rank == 1:
            time.sleep(0.4)
        return step, comm.exchange(comm.rank, patient=True)

    assert run_ranks(2, program, limit_s=0.1) == [("step", [0, 1])] * 2


def test_a_message_of_another_shape_is_refused():
    def program(comm):
        if comm.rank == 0:
            comm.send(np.zeros(4, np.float32), to=1)
        else:
            comm.receive(np.zeros(3, np.float32), source=0)

    with pytest.raises(ParallelError, match="sent a message of 4 float32, a message of 3 float32"):
        run_ranks(2, program)


def test_ranks_that_all_send_first_are_told_at_once_who_waits_for_whom():
    def program(comm):
        if comm.rank < 3:
            comm.send(np.zeros(1), to=(comm.rank + 1) % 3)

    with pytest.raises(ParallelError) as caught:
        run_ranks(4, program, limit_s=3600)
    what = "in the receive of a message of 1 float64"
    assert caught.value.cause == (
        f"Ranks wait for each other: rank 0 waits for rank 1, {what}; rank 1 waits for rank 2,"
        f" {what}; rank 2 waits for rank 0, {what}."
    )


def test_ranks_that_wait_for_one_that_is_about_to_answer_are_not_stuck():
    def program(comm):
        # Each hop wakes one rank while all others wait: the moment to be mistaken.
        token = np.zeros(1)
        for _ in range(50):
            if comm.rank == 0:
                comm.send(token, to=1)
            comm.receive(token, (comm.rank - 1) % comm.size)
            if comm.rank > 0:
                comm.send(token + 1, (comm.rank + 1) % comm.size)
        return token[0]

    assert run_ranks(3, program)[0] == 100


X = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda comm: comm.all_reduce(X.T), "with gaps or in another order"),
        (lambda comm: comm.all_reduce([1.0]), "a list, which is no array"),
        (lambda comm: comm.all_reduce(X > 0), "cannot add numbers of the format bool"),
        (lambda comm: comm.all_gather(np.zeros(())), "without an axis"),
        (lambda comm: comm.reduce_scatter(X[:3]), r"cannot divide shape \[3, 3\] among 2 ranks"),
        (lambda comm: comm.broadcast(X, root=2), "no rank 2 among 2"),
        (lambda comm: comm.tell(1, root=-1), "no rank -1 among 2"),
        (lambda comm: comm.send(X, to=comm.rank), r"Rank \d was asked to send"),
        (lambda comm: comm.receive(X, source=5), "no rank 5 among 2"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(call, problem):
    with pytest.raises(ParallelError, match=problem) as caught:
        run_ranks(2, call)
    assert isinstance(caught.value, LLMNumbaError)


# -- Alone --------------------------------------------------------------------------------------


def test_a_rank_alone_gets_back_what_it_gives():
    comm = Alone()
    x = values_of(0, (3, 2), ml_dtypes.bfloat16)
    before = x.copy()
    assert comm.all_reduce(x) is x
    assert comm.broadcast(x) is x
    assert np.array_equal(x, before)
    for copy in (comm.all_gather(x), comm.reduce_scatter(x)):
        assert np.array_equal(copy, x)
        assert not np.shares_memory(copy, x)
    assert comm.tell({"a": 1}) == {"a": 1}
    assert comm.exchange("a") == ["a"]
    assert comm.split(3).size == 1
    comm.barrier()
    with pytest.raises(ParallelError, match="alone exchanges no messages"):
        comm.send(x, to=0)
    with pytest.raises(ParallelError, match="alone exchanges no messages"):
        comm.receive(x, source=0)
