"""The Makefile: its list of targets, and the environment that it makes, mends and keeps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *map(str, arguments)]
    # The variables of the `make test` that may be running this.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=cwd
    )


def test_make_alone_lists_every_target_with_a_line():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = [name for name in phony[1].split() if name != "FORCE"]
    lines = make().stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == targets
    assert {"demo", "test", "test-all", "lint", "docs", "parity", "bench-cpu", "clean"} <= {
        *targets
    }
    assert all(len(line.split()) > 2 for line in lines)


def test_list_makes_no_environment(tmp_path):
    make("help", f"VENV={tmp_path / 'venv'}")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "needs Python 3.11 or newer"),
        ('case "$2" in *ensurepip*) exit 1;; *print*) echo it-venv;; esac', "apt install it-venv"),
    ],
)
def test_unfit_interpreter_is_told(tmp_path, script, message):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={fake}")
    assert done.returncode == 2
    assert message in done.stdout
    assert not (tmp_path / "venv").exists()


def test_missing_interpreter_is_told(tmp_path):
    done = make("test", f"VENV={tmp_path / 'venv'}", "PYTHON=python-that-is-not-there")
    assert done.returncode == 2
    assert "There is no python-that-is-not-there" in done.stdout


def test_environment_heals_and_is_kept(tmp_path):
    venv = tmp_path / "venv"
    stamp = venv / ".made"
    arguments = (stamp, f"VENV={venv}", f"PYTHON={sys.executable}")
    # What an interrupted run leaves: files, and no stamp.
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "leftover").touch()
    assert make(*arguments).returncode == 0
    assert not (venv / "bin" / "leftover").exists()
    made = stamp.stat().st_mtime_ns

    make(*arguments)
    assert stamp.stat().st_mtime_ns == made

    # What a moved directory looks like: the stamp names another one.
    stamp.write_text(f"/elsewhere {sys.executable}\n")
    (venv / "bin" / "leftover").touch()
    assert make(*arguments).returncode == 0
    assert not (venv / "bin" / "leftover").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not a git checkout")
def test_clean_clone_tells_a_story_and_installs_once(tmp_path):
    # Needs git and a package index, as the two commands of the README do.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    arguments = ("demo", f"PYTHON={sys.executable}")
    first, second = make(*arguments, cwd=clone), make(*arguments, cwd=clone)
    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "tokens/s" in done.stderr
    assert "Installing" in first.stdout
    assert "Installing" not in second.stdout
    assert second.stdout.strip()
    # Greedy: the same story, whenever it is told.
    assert first.stdout.endswith(second.stdout)
