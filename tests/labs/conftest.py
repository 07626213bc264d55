"""The grader on the path, and its children shared by all tests of a worker."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LABS = Path(__file__).parents[2] / "tutorials" / "labs"
sys.path.insert(0, str(LABS))

sys.path.insert(0, str(Path(__file__).parent))

from grader.children import Children  # noqa: E402
from submissions import Bench  # noqa: E402


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    """A host and a device that serve one file after another."""
    with Children() as alive:
        yield alive


@pytest.fixture
def bench(tmp_path: Path, children: Children) -> Iterator[Bench]:
    """Writes files into a folder of the test's own, and runs them."""
    bench = Bench(tmp_path, children)
    yield bench
    bench.end()
