"""The ``llm-numba`` command.

Text that was asked for goes to stdout, everything else (statistics, progress, errors) to stderr,
so a pipe carries the text alone. Exit codes:

=== ==================================================================================
0   done
1   a check that was asked for failed (``doctor``), or stdout was closed (``| head``) or full
2   a mistake in the input, told in a sentence of cause and one of remedy; or wrong usage
130 interrupted by Ctrl-C
=== ==================================================================================

Anything else is a bug of ours and shows its traceback.
"""

import atexit
import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Run the command line on ``sys.argv`` and exit."""
    if sys.stdout is None or sys.stderr is None:  # closed by the shell: `>&-`
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  stays open
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if sys.stdin is None:  # `<&-`, and of some batch systems' jobs
        sys.stdin = open(os.devnull)  # noqa: SIM115  stays open
    if isinstance(sys.stdout.buffer, io.RawIOBase):
        # PYTHONUNBUFFERED, as in many images: Python then drops what a full disk does not take of
        # a text, and says nothing. All that is written here is flushed anyway.
        sys.stdout = open(  # noqa: SIM115  stays open
            sys.stdout.fileno(), "w", encoding=sys.stdout.encoding, closefd=False
        )
    # Models write any character; a terminal that has no such character shows a question mark.
    sys.stdout.reconfigure(errors="replace")
    try:
        # Imported here, so that Ctrl-C while modules load ends as quietly as later on.
        from llm_numba.cli.app import app
        from llm_numba.cli.console import is_other_rank

        if is_other_rank():
            _run_silently(app)
        app(prog_name="llm-numba")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as failure:
        if failure.errno not in _DISK_ERRORS:
            raise
        print(f"Error: The output cannot be written: {failure.strerror}.", file=sys.stderr)
        print("  Fix: Make room, or write to another place.", file=sys.stderr)
        # What is still buffered cannot be written either; exit must not try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        # Numba's colours would end a terminal's output, JSON or not, with a reset of their own.
        if colorama := sys.modules.get("colorama.initialise"):
            atexit.unregister(colorama.reset_all)


def _run_silently(app: Callable[..., Any]) -> NoReturn:
    """Leave it to the first rank to give help, and to say what is wrong with the input."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            code = app(prog_name="llm-numba", standalone_mode=False) or 0
        except Exception as error:
            if not hasattr(error, "exit_code"):
                raise
            code = error.exit_code
    if code:
        from llm_numba.parallel.launch import SILENCE_S

        # A launcher ends all ranks when one has failed: let the first say why.
        time.sleep(SILENCE_S)
    sys.exit(code)
