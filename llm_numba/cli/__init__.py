"""The ``llm-numba`` command.

Text that was asked for goes to stdout, everything else (statistics, progress, errors) to stderr,
so a pipe carries the text alone. Exit codes:

=== ==================================================================================
0   done
1   a check that was asked for failed (``doctor``), or stdout was closed (``| head``)
2   a mistake in the input, told in a sentence of cause and one of remedy; or wrong usage
130 interrupted by Ctrl-C
=== ==================================================================================

Anything else is a bug of ours and shows its traceback.
"""

import sys


def main() -> None:
    """Run the command line on ``sys.argv`` and exit."""
    # Models write any character; a terminal that has no such character shows a question mark.
    sys.stdout.reconfigure(errors="replace")
    try:
        # Imported here, so that Ctrl-C while modules load ends as quietly as later on.
        from llm_numba.cli.app import app

        app(prog_name="llm-numba")
    except KeyboardInterrupt:
        sys.exit(130)
