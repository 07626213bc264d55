"""The grader on the path, and its children shared by all tests of a worker."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LABS = Path(__file__).parents[2] / "tutorials" / "labs"
sys.path.insert(0, str(LABS))

from grader.children import Children  # noqa: E402


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    """A host and a device that serve one file after another."""
    with Children() as alive:
        yield alive
