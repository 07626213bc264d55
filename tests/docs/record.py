"""Run every listing of the documentation and write down what it prints.

    python tests/docs/record.py [NAME ...]

The pages show these files, and `test_listings.py` holds the listings to them. Look at what changed
before you commit it.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def record(listing: Path) -> None:
    """Write what a listing prints beside it."""
    printed = subprocess.run(
        [sys.executable, str(listing)], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    listing.with_suffix(".out").write_text(printed)


if __name__ == "__main__":
    names = sys.argv[1:]
    for path in sorted((HERE / "listings").glob("*.py")):
        if not names or path.stem in names:
            print(path.stem)
            record(path)
