"""Ctrl-C, closed pipes and terminals: the command ends at once and leaves nothing behind."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Makes the terminal the process's own, so that the key ^C becomes a signal; then runs the command.
TAKE_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
ENDLESS = ("--ignore-eos", "--max-tokens", 60000)
# What ends at once takes a while on a machine that does other things; what does not, minutes.
PATIENCE_S = 60


@pytest.fixture
def endless(damaged):
    """A model with a context so long that it writes for minutes."""
    damaged.edit_json("config.json", max_position_embeddings=65536)
    return damaged


def hear_interrupts() -> None:
    """In a child: what a shell runs in the background inherits that the signal is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Screen:
    """What a program shows on a pseudo-terminal, and the keys pressed there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unread = b""

    def until(self, wanted: bytes, seconds: float = PATIENCE_S) -> None:
        """Wait for a text; what comes behind it is left for the next call."""
        end = time.monotonic() + seconds
        while wanted not in self._unread:
            ready, _, _ = select.select([self._descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, self._unread
            self._unread += os.read(self._descriptor, 4096)
        self._unread = self._unread.split(wanted, 1)[1]

    def more(self) -> None:
        """Wait for anything that has not been shown before."""
        if not self._unread:
            self._unread = os.read(self._descriptor, 4096)

    def rest(self) -> bytes:
        """Return what the program showed before it left."""
        while True:
            try:
                self._unread += os.read(self._descriptor, 4096)
            except OSError:  # how Linux reports the end of a pseudo-terminal
                return self._unread

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._descriptor, keys)


def sleeps_for_a_while(process: int) -> None:
    """Wait until a process waits: it sleeps whenever one looks, and is not only kept waiting."""
    looks, end = 0, time.monotonic() + PATIENCE_S
    while looks < 10 and time.monotonic() < end:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        looks = looks + 1 if state == "S" else 0
        time.sleep(0.03)


@pytest.fixture
def terminal(cli):
    """Start commands on a pseudo-terminal, and end them after the test."""
    children = []

    def start(*arguments):
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *cli.argv(*arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=cli.environment | {"TERM": "xterm", "COLUMNS": "80"},
            preexec_fn=hear_interrupts,
        )
        os.close(theirs)
        children.append((child, ours))
        return child, Screen(ours)

    yield start
    for child, ours in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(ours)


@contextmanager
def streaming(cli, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `generate` without an end, and wait for the first character."""
    with subprocess.Popen(
        cli.argv("generate", *arguments, *ENDLESS),
        bufsize=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cli.environment,
        preexec_fn=hear_interrupts,
    ) as child:
        assert child.stdout.read(1)
        yield child


def test_ctrl_c_while_streaming_exits_130_at_once(cli, endless):
    with streaming(cli, "Mia", "-m", endless) as child:
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130
    assert out.endswith(b"\n")
    assert err == b""


def test_ctrl_c_in_a_batch_exits_130(cli, endless):
    with streaming(cli, "Mia", "Tom", "-n", "2", "-m", endless) as child:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130
    assert b"Traceback" not in err


def test_closed_pipe_ends_quietly(cli, endless):
    with streaming(cli, "Mia", "-m", endless) as child:
        child.stdout.close()
        err = child.stderr.read()
        assert child.wait(timeout=PATIENCE_S) == 1
    assert err == b""


def test_chat_on_a_terminal_stops_an_answer_and_goes_on(terminal, endless):
    child, screen = terminal("chat", "-m", endless, *ENDLESS)
    screen.until(b">>> ")
    screen.press(b"hello\n")
    screen.until(b"hello")
    screen.until(b"\n")
    screen.more()
    screen.press(b"\x03")
    screen.until(b"(stopped)")
    screen.until(b">>> ")
    screen.press(b"/exit\n")
    assert child.wait(timeout=PATIENCE_S) == 0


def test_ctrl_c_at_the_chat_prompt_exits_130(terminal, endless):
    child, screen = terminal("chat", "-m", endless)
    screen.until(b">>> ")
    # CPython overlooks a signal between showing the prompt and waiting for the first key.
    sleeps_for_a_while(child.pid)
    screen.press(b"\x03")
    assert child.wait(timeout=PATIENCE_S) == 130
    assert screen.rest() == b"\r\n"


def test_end_of_input_leaves_the_chat(terminal, endless):
    child, screen = terminal("chat", "-m", endless)
    screen.until(b">>> ")
    screen.press(b"\x04")
    assert child.wait(timeout=PATIENCE_S) == 0


def test_mistake_at_the_chat_prompt_is_told_and_the_chat_goes_on(terminal, tiny):
    child, screen = terminal("chat", "-m", tiny, "--max-model-len", 32)
    screen.until(b">>> ")
    screen.press(b"a" * 100 + b"\n")
    screen.until(b"Fix: ")
    screen.until(b"/reset forgets the conversation and makes room.")
    screen.until(b">>> ")
    screen.press(b"/exit\n")
    assert child.wait(timeout=PATIENCE_S) == 0
