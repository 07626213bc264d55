"""How one rank's end becomes everybody's, with a message that names the rank.

Ranks wait for each other at every layer. If one of them is gone the others never finish, and if
they stay they hold their GPUs for ever. There are five ways to go:

======================== ============================================ =============================
a rank                   is noticed by                                within
======================== ============================================ =============================
raises an exception      itself: it says so and aborts                two waits of 0.3 s
stalls                   who waits for it, see ``watch``              the time limit, 60 s
does not come to its end itself, by an alarm, see ``stacks``          the limit and 6 s
is killed, or crashes    its launcher; the guards of its host's ranks their next look
loses its launcher       the guards of all ranks                      their next look
======================== ============================================ =============================

A guard is a thread of each rank that wakes once a second. It runs while the rank computes or waits
in a driver, and ends it where the launcher does not: mpirun killed by SIGKILL leaves its ranks
running, and srun by default does nothing when one of them dies.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
import zlib
from typing import Any, NoReturn

from llm_numba.errors import LLMNumbaError
from llm_numba.parallel.board import State
from llm_numba.parallel.stacks import ask
from llm_numba.parallel.watch import StallError, Watch, is_alive
from llm_numba.parallel.wording import ranks

# Ranks that fail in the same way do so at nearly the same time; one of them speaks.
_GRACE_S = 0.3
_ROUND_S = 1.0
# How long a rank that has failed may take to clean up. MPI's abort comes at the end of that.
_LAST_WORDS_S = 5.0


def end_all(mpi: Any, watch: Watch, error: BaseException) -> NoReturn:
    """End this rank and all others because of an exception, and say which rank it was.

    Parameters
    ----------
    mpi : module
        ``mpi4py.MPI``.
    watch : Watch
    error : BaseException
        A mistake of the user's is told by its cause and remedy, exit code 2. Anything else shows
        its traceback, exit code 1. Exits and Ctrl-C have said what they had to: they end all
        ranks with their own code.
    """
    code, text = exit_code(error), _last_words(watch, error)
    stall = _wait_behind(error)
    subject = stall.whom if stall else f"{type(error).__name__}: {error}"
    failure = zlib.crc32(subject.encode(errors="replace"))
    watch.note(State.FAILED, failure=failure)
    time.sleep(_GRACE_S)
    if _somebody_before(watch, failure):
        # That one aborts, and this rank with it.
        time.sleep(_LAST_WORDS_S)
        os._exit(code)
    _say(text)
    if stall:
        for rank, process in stall.late.items():
            _say(f"The threads of rank {rank}, each by its innermost call first:")
            ask(process)
    # A launcher that is told to abort may drop what it has not read yet.
    time.sleep(_GRACE_S)
    mpi.COMM_WORLD.Abort(code)
    os._exit(code)


def guard(watch: Watch) -> None:
    """Start the thread that ends this rank when its launcher or another rank of its host is gone.

    Parameters
    ----------
    watch : Watch
        Of whose board all ranks have written their first note.
    """
    # In containers of their own, ranks of one host may not see each other's processes.
    visible = [
        rank
        for rank in watch.board.ranks
        if rank != watch.rank and is_alive(watch.board.read(rank).process)
    ]
    run = threading.Thread(target=_guard, args=(watch, visible), name="guard", daemon=True)
    run.start()


def _guard(watch: Watch, visible: list[int]) -> None:
    launcher = os.getppid()
    while True:
        time.sleep(_ROUND_S)
        if os.getppid() != launcher:
            _say(f"Error on rank {watch.rank}: The launcher has gone, and this rank goes, too.")
            os._exit(1)
        notes = {rank: watch.board.read(rank) for rank in visible}
        dead = [
            rank
            for rank, note in notes.items()
            if note.state is not State.ENDED and not is_alive(note.process)
        ]
        if dead:
            if watch.rank == min({watch.rank, *visible} - set(dead)):
                processes = ", ".join(str(notes[rank].process) for rank in dead)
                _say(
                    f"Error: {ranks(dead)} (process {processes} on {watch.hosts[dead[0]]}) has"
                    " been killed, or has crashed.\n"
                    "  Fix: If nobody killed it, look for its last words above, and for the"
                    " system's out-of-memory killer: dmesg."
                )
            time.sleep(_GRACE_S)
            os._exit(1)
        mine = watch.board.read(watch.rank)
        late = time.monotonic() - _LAST_WORDS_S - _ROUND_S
        if mine.state is State.FAILED and mine.since < late:
            os._exit(1)


def exit_code(error: BaseException) -> int:
    """Return the code with which an exception ends a program.

    Parameters
    ----------
    error : BaseException
        Of any kind; 0 if it is an exit without a failure.
    """
    if isinstance(error, LLMNumbaError):
        return 2
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    # The command line's own way to exit is no SystemExit yet.
    return getattr(error, "exit_code", 1)


def _wait_behind(error: BaseException | None) -> StallError | None:
    """Return the wait in vain that an exception is, or was raised from: an engine's is."""
    while error is not None and not isinstance(error, StallError):
        error = error.__cause__
    return error


def _last_words(watch: Watch, error: BaseException) -> str:
    where = f"rank {watch.rank}"
    if len(set(watch.hosts)) > 1:
        where += f" ({watch.hosts[watch.rank]})"
    if isinstance(error, LLMNumbaError):
        cause, remedy = (" ".join(text.split()) for text in (error.cause, error.remedy))
        return f"Error on {where}: {cause}\n  Fix: {remedy}"
    if isinstance(error, KeyboardInterrupt | SystemExit) or hasattr(error, "exit_code"):
        return ""
    trace = "".join(traceback.format_exception(error))
    return f"{trace}Error on {where}: it has failed, see above, and takes all others with it."


def _somebody_before(watch: Watch, failure: int) -> bool:
    before = (watch.board.read(rank) for rank in watch.board.ranks if rank < watch.rank)
    return any(note.state is State.FAILED and note.failure == failure for note in before)


def _say(text: str) -> None:
    # Whoever reads may be gone.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        if text:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
