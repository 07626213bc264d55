"""However one rank ends, all others end soon after, and somebody says which one it was."""

import re
from types import SimpleNamespace

import pytest
from ranks import PROGRAMS

from llm_numba.errors import EngineError
from llm_numba.parallel import faults
from llm_numba.parallel.watch import StallError

# Where nobody stalls a wait that ends by its time limit would show: the run would take too long.
PATIENT_S = 60
# Where somebody does, as short as a busy machine allows.
LIMIT_S = 3
# What the others may take to end: from the fault, or from the end of the time limit.
END_S = 10
# And with the start of four ranks on a machine that does many other things: less than patience.
RUN_S = 48


# Faults that come before the ranks have met.
AT_ONCE = ("at the start", "another Python")


@pytest.fixture(name="fail")
def _fail(mpirun):
    def fail(way, *options, limit_s=PATIENT_S):
        program = PROGRAMS / "failing.py"
        ended = mpirun(4, program, way, options=options, LLM_NUMBA_STALL_S=str(limit_s))
        assert (ended.since_fault is None) == (way in AT_ONCE)
        check_time(ended, limit_s)
        return ended

    return fail


def check_time(ended, limit_s):
    """Nobody is left, and the end came soon; a fault at the very start has no time of its own."""
    assert ended.orphans == []
    assert ended.seconds < RUN_S
    if ended.since_fault is not None:
        assert ended.since_fault < END_S + (limit_s if limit_s == LIMIT_S else 0)


def test_without_a_fault_all_come_to_the_end(fail):
    ended = fail("idle", limit_s=LIMIT_S)
    assert ended.code == 0, ended.err
    assert ended.out.split("\n")[:-1] == ["the end"] * 4
    assert ended.err == ""


def test_a_rank_that_raises_shows_its_traceback_and_its_number(fail):
    ended = fail("raise")
    assert ended.code == 1
    assert "KeyError: 'no such layer'\nError on rank 2: it has failed" in ended.err
    assert ended.err.count("Error on rank") == 1


def test_a_mistake_is_told_by_cause_and_remedy(fail):
    ended = fail("a mistake")
    assert ended.code == 2
    assert "Error on rank 2: The prompt is empty.\n  Fix: Give it a word.\n" in ended.err
    assert "Traceback" not in ended.err


def test_what_all_ranks_say_is_said_once(fail):
    ended = fail("all raise")
    assert ended.code == 2
    assert ended.err.count("The prompt is empty.") == 1


def test_ranks_with_different_models_do_not_begin(fail):
    ended = fail("differ")
    assert ended.code == 2
    cause = "Rank 1 differs from rank 0 in the weights: 'those of rank 1', and on rank 0 'all oth"
    assert ended.err.count(cause) == 1


def test_ranks_with_different_versions_do_not_begin(fail):
    ended = fail("another Python")
    assert ended.code == 2
    assert "Rank 1 differs from rank 0 in the version of Python: '2.7.18', and" in ended.err


@pytest.mark.parametrize(("way", "code"), [("exit", 7), ("return", 2)])
def test_a_rank_that_leaves_early_takes_the_others_along(fail, way, code):
    ended = fail(way, limit_s=LIMIT_S if way == "return" else PATIENT_S)
    assert ended.code == code
    if way == "return":
        # It waits for the others at the end of the program, they for it elsewhere.
        assert "Ranks wait for each other" in ended.err
        assert "rank 1 in the end of the program" in ended.err


def test_a_rank_that_is_killed_is_named(fail):
    ended = fail("kill")
    assert ended.code != 0
    assert "rank 2" in ended.err


def test_where_the_launcher_does_not_care_the_other_ranks_do(fail):
    # As srun does: it lets the others go on.
    ended = fail("kill", "--enable-recovery")
    assert ended.code == 1
    assert ended.err.count("Error: Rank 2 (process") == 1
    assert "has been killed, or has crashed." in ended.err


@pytest.mark.parametrize("way", ["stop", pytest.param("sleep", marks=pytest.mark.slow)])
def test_a_rank_that_stalls_is_named_by_one_of_those_that_wait(fail, way):
    ended = fail(way, limit_s=LIMIT_S)
    assert ended.code == 2
    causes = [line for line in ended.err.splitlines() if line.startswith("Error on rank")]
    assert len(causes) == 1, ended.err
    assert "Rank 2 did not come to" in causes[0]
    assert "was last in all_reduce of 4x32 float32 sum, its communication number" in causes[0]
    assert "py-spy dump --pid" in ended.err


def test_a_wait_that_an_engine_reports_is_the_same_wait(monkeypatch):
    """Rank 0 has it from its engine, other ranks have it themselves, and one speaks for all."""

    class AbortedError(Exception):
        pass

    def abort(code):
        raise AbortedError

    monkeypatch.setattr(faults, "_GRACE_S", 0)
    asked, failures = [], []
    monkeypatch.setattr(faults, "ask", asked.append)
    mpi = SimpleNamespace(COMM_WORLD=SimpleNamespace(Abort=abort))
    board = SimpleNamespace(ranks=[0])
    watch = SimpleNamespace(
        rank=0,
        hosts=["here"] * 3,
        board=board,
        note=lambda state, failure: failures.append(failure),
    )
    own = StallError("Rank 2 did not come.", "See what keeps it.", "[2]", late={2: 1234})
    reported = EngineError(own.cause, own.remedy)
    reported.__cause__ = own
    for error in (own, reported):
        with pytest.raises(AbortedError):
            faults.end_all(mpi, watch, error)
    assert failures[0] == failures[1]
    assert asked == [1234, 1234]


def test_a_rank_that_stays_when_all_have_parted_shows_where_and_goes(fail):
    ended = fail("stay at the end", limit_s=LIMIT_S)
    assert ended.out.count("the end") == 4
    assert ended.code != 0
    assert "failing.py" in ended.err
    assert "in stay" in ended.err


def test_ranks_that_wait_in_a_circle_are_told_where(fail):
    ended = fail("wait in a circle", limit_s=LIMIT_S)
    assert ended.code == 2
    for rank in range(4):
        assert f"rank {rank} in receive of 4x32 float32" in ended.err


def test_a_launcher_that_is_killed_leaves_nobody_behind(fail):
    # Its pipes are closed when the last rank has gone.
    assert fail("kill the launcher").code == -9


@pytest.mark.slow
def test_ctrl_c_ends_all_ranks_without_a_word(fail):
    ended = fail("interrupt the launcher")
    assert ended.code != 0
    assert "Error" not in ended.err


def test_too_few_ranks_are_told_once(fail):
    ended = fail("at the start")
    assert ended.code == 2
    cause = "Error on rank 0: A mesh of tp=3 x pp=5 needs 15 ranks, and there are 4."
    assert ended.err.count("15 ranks") == 1
    assert f"{cause}\n  Fix: Start 15: mpirun -n 15.\n" in ended.err


# -- In the middle of an answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "code", "words"),
    [
        ("kill", None, "rank 3"),
        ("raise", 1, "RuntimeError: a cosmic ray\nError on rank 3: it has failed"),
        # One rank waits for it in a sum, another for its token: who speaks first?
        ("stall", 2, rf"Rank 3 did not come to (all_reduce|receive) of .+ within {LIMIT_S} s"),
    ],
)
def test_an_answer_ends_with_the_rank_that_goes(mpirun, tiny_checkpoint, way, code, words):
    model = tiny_checkpoint(num_hidden_layers=4)
    limit_s = LIMIT_S if way == "stall" else PATIENT_S
    ended = mpirun(4, PROGRAMS / "dying.py", model, way, LLM_NUMBA_STALL_S=str(limit_s))
    assert code in (None, ended.code)
    assert ended.code != 0
    assert 3 <= ended.out.count("a token") < 40
    assert re.search(words, ended.err)
    # Where the rank is that does not come.
    assert ('dying.py", line' in ended.err and "in go\n" in ended.err) == (way != "kill")
    assert ended.since_fault is not None
    check_time(ended, limit_s)


@pytest.mark.parametrize(
    ("way", "what"), [("another model", "the model"), ("other weights", "the weights")]
)
def test_ranks_that_load_different_models_do_not_begin(mpirun, tiny_checkpoint, way, what):
    ended = mpirun(4, PROGRAMS / "dying.py", tiny_checkpoint(num_hidden_layers=4), way)
    assert ended.code == 2
    assert ended.err.count(f"Rank 3 differs from rank 0 in {what}") == 1
