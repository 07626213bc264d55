"""Who is to blame for a wait, as read from the board."""

import os
import subprocess
import sys
import time

import pytest

from llm_numba.parallel import watch
from llm_numba.parallel.board import Board, Note, State
from llm_numba.parallel.watch import StallError, Watch, is_alive
from llm_numba.parallel.wording import ranks


@pytest.fixture(name="board")
def _board():
    """Of two ranks on this host, of four in all."""
    path = Board.create(2)
    try:
        yield Board(path, [0, 1])
    finally:
        path.unlink()


def note(state, what="its start", count=3):
    return Note(state, os.getpid(), count, time.monotonic(), what)


def stalled(board, members, hosts=("a", "a", "b", "c")):
    mine = Watch(0, list(hosts), board, 0.02)
    with pytest.raises(StallError) as caught:
        mine.wait(lambda: False, "all_reduce of 3 float32 sum", members)
    # Whoever cleans up now does not wait again, and does not even ask.
    asked = []
    with pytest.raises(StallError):
        mine.wait(lambda: asked.append("whether it is done"), "barrier", members, patient=True)
    assert asked == []
    assert board.read(0).state is State.WAITING
    return str(caught.value)


def test_who_works_is_named_rather_than_who_waits_for_it(board):
    board.write(1, note(State.WORKING, "broadcast of 7 int32 from rank 0", 41))
    text = stalled(board, [0, 1])
    assert "Rank 1 did not come to all_reduce of 3 float32 sum within 0.02 s" in text
    assert "was last in broadcast of 7 int32 from rank 0, its communication number 41" in text


@pytest.mark.parametrize("members", [[0, 2], [0, 2, 3]])
def test_who_works_is_named_even_if_it_is_waited_for_by_others(board, members):
    board.write(1, note(State.WORKING))
    assert "Rank 1 did not come" in stalled(board, members)


@pytest.mark.parametrize("state", [State.WAITING, State.IDLE, State.ENDED])
def test_ranks_of_other_hosts_are_named_if_nobody_here_is_late(monkeypatch, board, state):
    monkeypatch.setattr(watch, "_PRECEDENCE_S", 0.05)
    board.write(1, note(state))
    begin = time.monotonic()
    text = stalled(board, [0, 1, 2, 3])
    assert "all_reduce of 3 float32 sum got no answer from Ranks 2, 3 (b, c) within 0.02 s" in text
    # After those who sit beside them.
    assert time.monotonic() - begin > 0.02 + 0.05


def test_ranks_that_wait_for_each_other_are_told_where(board):
    board.write(1, note(State.IDLE, "tell from rank 0"))
    text = stalled(board, [0, 1])
    assert "rank 0 in all_reduce of 3 float32 sum; rank 1 in tell from rank 0" in text


def test_what_is_done_in_time_leaves_a_note(board):
    mine = Watch(1, ["a", "a"], board, 5.0)
    assert board.read(1).what == "its start"
    answers = iter([False] * 5 + [True])
    mine.wait(lambda: next(answers), "barrier", [0, 1])
    found = board.read(1)
    assert (found.state, found.what, found.count) == (State.WORKING, "barrier", 1)
    assert found.process == os.getpid()


def test_a_note_is_cut_where_the_row_ends_and_readable_all_the_same(board):
    board.write(0, note(State.WAITING, "ä" * 500))
    board.write(1, note(State.WORKING, "next"))
    assert board.read(0).what.startswith("ä" * 100)
    assert board.read(1).what == "next"


def test_a_process_is_alive_until_it_has_ended():
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    assert is_alive(child.pid)
    child.stdin.close()
    # Ended, and not yet asked for: the system still lists it.
    end = time.monotonic() + 20
    while is_alive(child.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(child.pid)
    child.wait()
    assert not is_alive(child.pid)


def test_ranks_are_counted_in_words():
    assert ranks([3]) == "Rank 3"
    assert ranks([1, 2]) == "Ranks 1, 2"


def test_who_reads_a_note_while_it_is_written_sees_the_process():
    """As guards do, which take a rank without a process for dead: 4 % saw none, and now nobody."""
    path = Board.create(1)
    board = Board(path, [0])
    script = (
        "import sys; from pathlib import Path; from llm_numba.parallel.board import *\n"
        "board = Board(Path(sys.argv[1]), [0])\n"
        "while True: board.write(0, Note(State.WORKING, 4711, 3, 1.0, 'a long communication'))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, path])
    try:
        while board.read(0).process == 0:
            assert writer.poll() is None
        assert {board.read(0).process for _ in range(50_000)} == {4711}
    finally:
        writer.kill()
        writer.wait()
        path.unlink()
