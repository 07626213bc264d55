"""Start and end the grader's children: the host that runs Python, the device that runs kernels."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from grader.channel import Channel, ClosedError, LateError

_LABS = Path(__file__).parents[1]
# What a child inherits of the environment: no key and no path of ours.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")
# A child that sleeps uses no processor time; this is for it, and for a machine that does.
PATIENCE = 20


def _start(module: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    mine, theirs = socket.socketpair()
    # Isolated (-I): neither the current folder nor a PYTHONPATH says what is imported.
    code = (
        f"import sys; sys.path[:] = {[str(_LABS), *_paths()]!r}; "
        f"from grader.{module} import serve; serve({theirs.fileno()})"
    )
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            cwd=tempfile.gettempdir(),
            env=kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    return child, mine


def _paths() -> list[str]:
    return [os.path.abspath(path) for path in sys.path]


class Children:
    """All children of one run of the grader; ends them when it is left.

    They are started when they are first needed.
    """

    def __init__(self) -> None:
        self._host: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._device: tuple[subprocess.Popen[bytes], Channel] | None = None
        self._loaded: str | None = None

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        self.end_device()
        if self._host:
            self._end(*self._host)
            self._host = None

    def fork_host(self) -> "HostChild":
        """Return a fresh child for one check."""
        if self._host is None:
            self._host = _start("host")
        control = self._host[1]
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(control, [b"."], [theirs.fileno()])
        number = control.recv(4)
        if len(number) < 4:
            raise ClosedError
        return HostChild(Channel(mine), int.from_bytes(number, "little"))

    def ask_device(self, source: str, seconds: int, order: dict[str, Any]) -> Any:
        """Have the device do something with a student's kernels.

        Returns
        -------
        dict
            The device's answer; ``{"late": True}`` if it took too long.
        """
        if self._device is None:
            child, end = _start("device")
            self._device, self._loaded = (child, Channel(end)), None
        channel = self._device[1]
        try:
            if self._loaded != source:
                self._loaded = source
                channel.send({"op": "load", "source": source})
                answer = channel.receive(PATIENCE * seconds)
                if "fault" in answer:
                    self._loaded = None
                    return answer
            channel.send(order)
            answer = channel.receive(PATIENCE * seconds)
        except LateError:
            answer = {"late": True}
        except ClosedError:
            answer = {"fault": "MemoryError", "cause": "The simulator has ended.", "line": 0,
                      "remedy": "Most often it ran out of memory: use smaller arrays."}  # fmt: skip
            self.end_device()
        if answer.get("late"):
            # It was stopped somewhere in the middle.
            self.end_device()
        return answer

    def end_device(self) -> None:
        """End the device; the next order starts another."""
        if self._device:
            self._end(self._device[0], self._device[1].end)
            self._device = None

    @staticmethod
    def _end(child: subprocess.Popen[bytes], end: socket.socket) -> None:
        end.close()
        child.kill()
        child.wait()


class HostChild:
    """A child that runs one student's file.

    Attributes
    ----------
    channel : Channel
    """

    def __init__(self, channel: Channel, process: int) -> None:
        self.channel = channel
        self._process = process

    def end(self) -> None:
        """End the child, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        self.channel.end.close()
