"""Where a rank is that does not come: the calls of its threads, shown at a signal.

A rank may be kept inside a library that holds Python's lock. Then no Python runs in it, not even
its guard. What :mod:`faulthandler` does needs no lock. So it serves whoever waits for a rank and
asks, and a rank that ends: behind the last meeting of all, MPI and the driver may still wait for
ever, and nobody is left who looks.
"""

import contextlib
import faulthandler
import os
import signal
from pathlib import Path

# Nobody sends it but the process itself, and those beside it.
_ALARM = signal.SIGALRM
_STDERR = 2
# Seconds between showing and ending: with the first rank that ends, a launcher ends all others.
_TO_SHOW = 1.0


def show_when_asked() -> None:
    """Write the stacks of all threads at each alarm from now on, and go on."""
    # A program that has uses of its own for alarms keeps them.
    if signal.getsignal(_ALARM) is signal.SIG_DFL:
        faulthandler.register(_ALARM, file=_STDERR, all_threads=True)


def ask(process: int) -> None:
    """Let another rank of this host write its stacks.

    Parameters
    ----------
    process : int
        One that has the same parent as this one. Others are left alone: a rank in a container of
        its own has numbers that mean something else here.
    """
    with contextlib.suppress(OSError):
        # Behind the name in brackets: its state, and its parent.
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        if int(stat[1]) == os.getppid():
            os.kill(process, _ALARM)


def end_within(seconds: float) -> None:
    """Write the stacks if this process is still there then, and a second later end by the signal.

    Parameters
    ----------
    seconds : float
    """
    faulthandler.dump_traceback_later(seconds, file=_STDERR)
    faulthandler.unregister(_ALARM)
    signal.signal(_ALARM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + _TO_SHOW)
