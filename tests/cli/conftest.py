"""A checkpoint to damage, and two ways to run the command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from llm_numba.cli.app import app


class CheckpointDirectory:
    """A directory in Hugging Face layout that a test may damage.

    Parameters
    ----------
    path : Path
        Where it is.
    """

    weights = "model.safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def edit_json(self, name: str, **changes: Any) -> None:
        """Change or, with ``None``, remove keys of a JSON file."""
        values = json.loads((self.path / name).read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not None}
        (self.path / name).write_text(json.dumps(kept))

    def edit_tensors(self, change: Callable[[dict[str, np.ndarray]], None]) -> None:
        """Rewrite the weights after a change to their dictionary."""
        tensors = load_file(self.path / self.weights)
        change(tensors)
        save_file(tensors, self.path / self.weights)


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> CheckpointDirectory:
    """A valid checkpoint, shared: tests do not change it."""
    return CheckpointDirectory(tiny_dir)


@pytest.fixture
def damaged(tiny_dir: Path, tmp_path: Path) -> CheckpointDirectory:
    """A copy of the valid checkpoint, for a test to damage."""
    shutil.copytree(tiny_dir, tmp_path / "model")
    return CheckpointDirectory(tmp_path / "model")


class CommandLine:
    """Two ways to run the command: in this process (quick), or as a user does."""

    def invoke(self, *arguments: object, stdin: str | bytes = "") -> Result:
        """Run a command in this process."""
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, words, input=stdin, prog_name="llm-numba")

    def refuses(self, *arguments: object, words: list[str], stdin: str | bytes = "") -> None:
        """Check that a command is a mistake: exit code 2, a line of cause, a line of remedy."""
        result = self.invoke(*arguments, stdin=stdin)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        cause, remedy = result.stderr.splitlines()
        assert cause.startswith("Error: ")
        assert remedy.startswith("  Fix: ")
        for word in words:
            assert word in result.stderr

    def argv(self, *arguments: object) -> list[str]:
        """Return the command line of a real process."""
        return [sys.executable, "-m", "llm_numba", *(str(argument) for argument in arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a real process: this checkout, one BLAS thread, no colours."""
        root = str(Path(__file__).parents[2])
        return os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1"}

    def run(
        self, *arguments: object, stdin: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own, with some environment variables set."""
        return subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment | variables,
        )


@pytest.fixture(scope="session")
def cli() -> CommandLine:
    """The command line."""
    return CommandLine()
