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
from grader.mpi import World

_LABS = Path(__file__).parents[1]
# What a child inherits of the environment: no key and no path of ours.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")


def patience(seconds: int) -> int:
    """Return how long to wait for a child that may use so many seconds of processor time.

    The clock on the wall is for children that sleep. It leaves room for a machine with other work,
    and for a device to start.
    """
    return 60 + 20 * seconds


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

    Parameters
    ----------
    mpirun : bool
        Whether ranks are also run by mpirun.
    """

    def __init__(self, mpirun: bool = False) -> None:
        self.mpirun = mpirun
        self._world: World | None = None
        self._host: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._devices: dict[str, tuple[subprocess.Popen[bytes], Channel]] = {}
        self._loaded: dict[str, str] = {}

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        for kind in list(self._devices):
            self.end_device(kind)
        self.end_world()
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

    def ask_device(
        self, source: str, seconds: int, order: dict[str, Any], kind: str = "device"
    ) -> Any:
        """Have a device do something with a student's kernels.

        Parameters
        ----------
        source : str
            Of the student's file.
        seconds : int
            Of processor time that the order may take.
        order : dict
        kind : {"device", "gpu"}
            The simulator, or a GPU.

        Returns
        -------
        dict
            The device's answer; ``{"late": True}`` if it took too long.
        """
        if kind not in self._devices:
            child, end = _start(kind)
            self._devices[kind] = (child, Channel(end))
        channel = self._devices[kind][1]
        try:
            answer: dict[str, Any] = {}
            if self._loaded.get(kind) != source:
                channel.send({"op": "load", "source": source})
                answer = channel.receive(patience(seconds))
            if "fault" not in answer:
                self._loaded[kind] = source
                channel.send(order)
                answer = channel.receive(patience(seconds))
        except LateError:
            answer = {"late": True}
        except ClosedError:
            answer = {"fault": "MemoryError", "cause": "The device has ended.", "line": 0,
                      "remedy": "Most often it ran out of memory: use smaller arrays."}  # fmt: skip
            self.end_device(kind)
        if answer.get("late") or (kind == "gpu" and "fault" in answer):
            # It was stopped in the middle; and a GPU's context does not outlive some faults.
            self.end_device(kind)
        return answer

    def ask_world(
        self, count: int, order: dict[str, Any], args: list[tuple[Any, ...]]
    ) -> list[dict[str, Any]]:
        """Have ranks of mpirun do something; see :meth:`grader.mpi.World.run`.

        Raises
        ------
        ClosedError, LateError
            If a rank is gone, or does not answer.
        """
        if self._world is None:
            self._world = World()
        answers = []
        try:
            answers = self._world.run(count, order, args)
        finally:
            if len(answers) < count or answers[0]["event"] == "raised":
                # The others wait for the one that failed.
                self.end_world(idle=False)
        return answers

    def end_world(self, *, idle: bool = True) -> None:
        """End the ranks of mpirun; the next order starts others."""
        if self._world:
            self._world.end(idle=idle)
            self._world = None

    def gpu_problem(self) -> str | None:
        """Say why there is no GPU, or return None."""
        return self.ask_device("", 60, {"op": "problem"}, "gpu").get("problem")

    def end_device(self, kind: str) -> None:
        """End a device; the next order starts another.

        Parameters
        ----------
        kind : {"device", "gpu"}
        """
        self._loaded.pop(kind, None)
        if kind in self._devices:
            child, channel = self._devices.pop(kind)
            self._end(child, channel.end)

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
        # A handle, because a number may be another process's by the time it is used. Where there
        # are none, a child whose channel closes ends, at the latest with its seconds.
        self._handle: int | None = None
        with contextlib.suppress(OSError):
            self._handle = os.pidfd_open(process)

    def end(self) -> None:
        """End the child, whatever it does."""
        self.channel.end.close()
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            os.close(self._handle)
            self._handle = None
