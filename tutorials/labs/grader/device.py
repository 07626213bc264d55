"""The child that is the device: it launches a student's kernels in the simulator and counts.

It has the student's source and never runs it as Python: see ``kernels.py``.
"""

import ast
import resource
import signal
import socket
import types
from typing import Any

from grader import kernels
from grader.channel import Channel, ClosedError

MEMORY_BYTES = 8 << 30
# How messages name the student's file.
FILE = "exercise.py"
COSTS = (
    "global_requests", "global_sectors", "ideal_sectors",
    "shared_requests", "shared_wavefronts", "ideal_wavefronts", "divergent",
)  # fmt: skip


class TimeUp(BaseException):
    """The launch has used the seconds that it was given."""


def serve(number: int) -> None:
    """Load files and launch their kernels, as orders come.

    Parameters
    ----------
    number : int
        File descriptor of the socket.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    obey_all(Device(), Channel(socket.socket(fileno=number)))


def obey_all(device: "Device", channel: Channel) -> None:
    """Do what the grader asks for, until it is gone.

    Parameters
    ----------
    device : Device
    channel : Channel
    """
    while True:
        try:
            order = channel.receive()
            channel.send(getattr(device, order.pop("op"))(**order))
        except ClosedError:
            return


class Device:
    """A device with one student's kernels on it."""

    def __init__(self) -> None:
        self._kernels: dict[str, Any] = {}
        self._made: dict[tuple[str, str], Any] = {}

    def load(self, source: str) -> dict[str, Any]:
        """Take the kernels out of a file."""
        found = kernels.take_out(ast.parse(source))
        # A kernel that is as it was before, in all that it can name, need not be typed again.
        shared = [ast.dump(node, include_attributes=True) for node in found.shared()]
        around = f"{found.constants} {shared}"
        module = types.ModuleType("student")  # Numba asks where a kernel comes from
        module.__dict__.update(found.constants)
        try:
            exec(compile(found.source, FILE, "exec", dont_inherit=True), module.__dict__)
        except Exception as failure:
            return failed(failure)
        self._kernels = {
            name: self._made.setdefault(
                (around, ast.dump(node, include_attributes=True)), module.__dict__[name]
            )
            for name, node in found.functions.items()
        }
        return {}

    def launch(
        self, kernel: str, grid: Any, block: Any, args: tuple[Any, ...], arrays: dict[int, Any],
        shared_bytes: int, schedule: str, seed: int, seconds: int,
    ) -> dict[str, Any]:  # fmt: skip
        """Launch a kernel; return its costs and what the arrays hold then."""
        from llm_numba.simulator import simulate

        def time_up(*_: Any) -> None:
            raise TimeUp

        values = tuple(
            arrays[each.device_number] if hasattr(each, "device_number") else each for each in args
        )
        signal.signal(signal.SIGVTALRM, time_up)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            report = simulate(
                self._kernels[kernel], grid, block, values, shared_bytes,
                schedule=schedule, seed=seed,
            )  # fmt: skip
        except TimeUp:
            return {"late": True}
        except Exception as failure:
            return failed(failure)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return {"report": _plain(report), "arrays": arrays}


def _plain(report: Any) -> dict[str, Any]:
    lines = [
        {"line": each.line, "file": each.file, "bank_ways": each.max_bank_ways}
        | {name: getattr(each, name) for name in COSTS}
        for each in report.lines
    ]
    return {name: getattr(report, name) for name in COSTS} | {
        "bank_ways": max((each.max_bank_ways for each in report.lines), default=0),
        "barriers": report.barriers,
        "shared_bytes": report.shared_bytes,
        "local_bytes": report.local_bytes,
        "float64": [line for file, line in report.float64 if file == FILE],
        "printed": report.printed[:4000],
        "lines": lines,
        "arrays": {
            name: {"loads": each.loads, "stores": each.stores, "atomics": each.atomics}
            for name, each in report.arrays.items()
        },
    }


def failed(failure: Exception) -> dict[str, Any]:
    """Describe what went wrong with a launch.

    Parameters
    ----------
    failure : Exception
    """
    return {
        "fault": type(failure).__name__,
        "cause": str(getattr(failure, "cause", failure)),
        "remedy": str(getattr(failure, "remedy", "")),
        "line": getattr(failure, "line", None) or 0,
    }
