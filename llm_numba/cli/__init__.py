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

import errno
import os
import sys

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Run the command line on ``sys.argv`` and exit."""
    if sys.stdout is None or sys.stderr is None:  # closed by the shell: `>&-`
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  stays open
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # Models write any character; a terminal that has no such character shows a question mark.
    sys.stdout.reconfigure(errors="replace")
    try:
        # Imported here, so that Ctrl-C while modules load ends as quietly as later on.
        from llm_numba.cli.app import app

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
