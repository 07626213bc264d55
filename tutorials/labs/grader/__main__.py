"""``python tutorials/labs/grader``: see ``cli.py``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a folder, the package is not on the path yet.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from grader.cli import main

    sys.exit(main())
