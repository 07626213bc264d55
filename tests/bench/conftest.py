"""A program of a test's own, found before those of the machine."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# `small_points`, which two modules of tests share.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A factory of executables from Python source; they go first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, source: str) -> Path:
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)
        return path

    return write
