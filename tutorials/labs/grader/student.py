"""A student's file as a check uses it: launch its kernels, call its functions, count."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grader import kernels
from grader.channel import ClosedError, LateError, OnDevice
from grader.children import PATIENCE, Children, HostChild
from grader.costs import Launched, Ran
from grader.device import FILE
from grader.ranks import OPERATIONS
from grader.routing import Ranks, route
from grader.verdict import Failed

_MAX_THREADS = 1 << 20
_NUMBERS = bool | int | float | np.generic


@dataclass(frozen=True)
class Submission:
    """A file that passed the rules.

    Attributes
    ----------
    path : Path
    source : str
    tree : ast.Module
    imports : tuple of str
        What the lab allows beside the usual modules.
    seconds : int
        Of processor time, for one call or launch.
    """

    path: Path
    source: str
    tree: ast.Module
    imports: tuple[str, ...] = ()
    seconds: int = 20


@dataclass
class Student:
    """What a check gets: the student's file, in fresh children.

    Attributes
    ----------
    submission : Submission
    children : Children
    printed : str
        What the student's program printed.
    """

    submission: Submission
    children: Children
    printed: str = ""
    _host: HostChild | None = None
    _arrays: dict[int, np.ndarray] = field(default_factory=dict)
    _launched: list[Launched] = field(default_factory=list)

    # -- What a check may ask for ---------------------------------------------------------------

    def launch(
        self,
        kernel: str,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int = 0,
        *,
        schedule: str = "ordered",
        seed: int = 0,
    ) -> Ran:
        """Launch a kernel in the simulator; a fault there ends the check.

        Parameters
        ----------
        kernel : str
            Its name in the file.
        grid, block : int or tuple of int
        args : tuple
            NumPy arrays, written in place, and numbers.
        shared_bytes : int
            Dynamic shared memory.
        schedule : {"ordered", "random"}
        seed : int
            Of the random schedule.

        Returns
        -------
        Ran
        """
        self._arrays, self._launched = {}, []
        packed = self._to_device(args)
        self._launch(kernel, grid, block, packed, shared_bytes, 0, schedule, seed)
        return Ran(tuple(self._launched), None)

    def run(self, function: str, *args: Any) -> Ran:
        """Call a launcher; its launches run in the simulator.

        Parameters
        ----------
        function : str
        *args
            NumPy arrays, which the function sees as arrays of the device and its kernels write in
            place, and plain data.

        Returns
        -------
        Ran
            `returned` is an array if the function returned one of the device's.
        """
        self._arrays, self._launched = {}, []
        packed = self._to_device(args)
        kinds = {number: (each.shape, each.dtype.name) for number, each in self._arrays.items()}
        order = {"op": "call", "name": function, "args": packed, "arrays": kinds}
        returned = self._order(order, self._answer_launcher)
        if isinstance(returned, OnDevice):
            returned = self._arrays[returned.device_number]
        return Ran(tuple(self._launched), returned)

    def call(self, function: str, *args: Any) -> Any:
        """Call a function of plain Python.

        Parameters
        ----------
        function : str
        *args
            Plain data and NumPy arrays, by value.

        Returns
        -------
        plain data or array
        """
        return self._order({"op": "call", "name": function, "args": args})

    def raises(self, function: str, *args: Any) -> str | None:
        """Call a function; return the name of the exception that it raises, or None.

        Parameters
        ----------
        function : str
        *args
            As of :meth:`call`.
        """
        return self._order({"op": "call", "name": function, "args": args, "may_raise": True})

    def new(self, cls: str, *args: Any) -> "Remote":
        """Make an object of a class of the file.

        Parameters
        ----------
        cls : str
        *args
            As of :meth:`call`.
        """
        return Remote(self, self._order({"op": "new", "name": cls, "args": args}))

    def ranks(
        self,
        count: int,
        function: str,
        args_of: Callable[[int], tuple[Any, ...]],
        *,
        allow: Iterable[str] = OPERATIONS,
    ) -> Ranks:
        """Run ``function(comm, *args)`` as several ranks, a process each.

        Parameters
        ----------
        count : int
            P.
        function : str
        args_of : callable(rank) -> tuple
            What comes after the communicator.
        allow : iterable of str
            Operations of the communicator that the lab allows.

        Returns
        -------
        Ranks
        """
        hosts: list[HostChild] = []
        try:
            for _ in range(count):
                hosts.append(self._fork())
            for rank, host in enumerate(hosts):
                host.channel.send({"op": "rank", "name": function, "rank": rank, "size": count,
                                   "allow": tuple(allow), "args": args_of(rank)})  # fmt: skip
            return route([host.channel for host in hosts], self)
        finally:
            for host in hosts:
                host.end()

    def end(self) -> None:
        """End the child that runs the student's Python."""
        if self._host:
            self._host.end()
            self._host = None

    # -- The host -------------------------------------------------------------------------------

    def _order(self, order: dict[str, Any], answer: Callable[..., Any] | None = None) -> Any:
        """Have the host do something, and answer what it asks meanwhile."""
        if self._host is None:
            self._host = self._fork()
        channel = self._host.channel
        channel.send(order)
        while True:
            message = self.hear(channel)
            if message["event"] == "returned":
                return message["value"]
            if answer is None:
                raise Failed(
                    f"{order['name']} launches a kernel or asks for an array of the device: "
                    "this function is plain Python.",
                    message.get("line", 0),
                )
            channel.send(answer(message))

    def _fork(self) -> HostChild:
        of = self.submission
        host = self.children.fork_host()
        order = {"path": str(of.path), "source": of.source, "imports": list(of.imports)}
        try:
            host.channel.send(order | {"seconds": of.seconds})
            self.hear(host.channel)
        except Failed:
            host.end()
            raise
        return host

    def hear(self, channel: Any) -> dict[str, Any]:
        """Receive a child's next message.

        Raises
        ------
        Failed
            If it says that the student's program raised, or if it is gone.
        """
        seconds = self.submission.seconds
        try:
            message = channel.receive(PATIENCE * seconds)
            if not isinstance(message, dict) or "event" not in message:
                raise ClosedError
        except LateError:
            raise Failed("Your program sleeps, or waits for what never comes.") from None
        except ClosedError:
            raise Failed(
                f"Your program ended without an answer: it used more than {seconds} seconds of "
                "processor time or too much memory, or crashed."
            ) from None
        self.printed = str(message.get("printed", self.printed))
        if message["event"] == "raised":
            raise self._raised(message)
        return message

    def _raised(self, message: dict[str, Any]) -> Failed:
        frames = message["frames"]
        line = frames[-1][0] if frames else 0
        if message["type"] == "TimeUp":
            return Failed(
                f"This takes more than {self.submission.seconds} seconds: is there a loop that "
                "never ends?",
                line,
            )
        lines = self.submission.source.splitlines()
        calls = [
            f"    line {at}, in {name}: {lines[at - 1].strip()}"
            for at, name in frames
            if 0 < at <= len(lines)
        ]
        said = f"{message['type']}: {message['message']}"
        return Failed("\n".join(["Your program raised an exception.", *calls, "    " + said]), line)

    # -- The device -----------------------------------------------------------------------------

    def _to_device(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        packed = []
        for value in args:
            if isinstance(value, np.ndarray):
                self._arrays[len(self._arrays)] = value
                value = OnDevice(len(self._arrays) - 1)
            packed.append(value)
        return tuple(packed)

    def _answer_launcher(self, message: dict[str, Any]) -> Any:
        if message["event"] == "allocate":
            shape, dtype = message["shape"], message["dtype"]
            if np.prod(shape, dtype=float) > 1 << 24:
                raise Failed(f"An array of shape {list(shape)} is larger than this lab needs.")
            array = np.zeros(shape, dtype)
            if not message["zero"] and array.dtype.kind == "f":
                array[...] = np.nan
            self._arrays[len(self._arrays)] = array
            return len(self._arrays) - 1
        if message["event"] == "launch":
            self._launch(message["kernel"], message["grid"], message["block"], message["args"],
                         message["shared_bytes"], message["line"])  # fmt: skip
            return None
        raise ClosedError

    def _launch(
        self, kernel: str, grid: Any, block: Any, args: tuple[Any, ...], shared_bytes: int,
        line: int, schedule: str = "ordered", seed: int = 0,
    ) -> None:  # fmt: skip
        parameters = kernels.take_out(self.submission.tree).launchable()
        if kernel not in parameters:
            raise Failed(
                f"There is no kernel {kernel!r}: a kernel stands at the top level of the file "
                "under @cuda.jit, and its options are written out there.",
                line,
            )
        if np.prod(grid, dtype=float) * np.prod(block, dtype=float) > _MAX_THREADS:
            raise Failed(
                f"{kernel} is launched with a grid of {grid} and a block of {block}: more threads "
                "than this lab needs.",
                line,
            )
        strange = [type(v).__name__ for v in args if not isinstance(v, OnDevice | _NUMBERS)]
        if strange:
            raise Failed(
                f"{kernel} gets a {strange[0]}, which is neither an array of the device nor a "
                "number. Arrays of a launcher are those that it is given, and what "
                "llm_numba.runtime.empty and zeros return.",
                line,
            )
        if 0 in np.atleast_1d(grid):
            raise Failed(f"{kernel} is launched with an empty grid, {grid}.", line)
        used = {v.device_number: self._arrays[v.device_number] for v in args
                if isinstance(v, OnDevice)}  # fmt: skip
        of = self.submission
        order = {"op": "launch", "kernel": kernel, "grid": grid, "block": block, "args": args,
                 "arrays": used, "shared_bytes": shared_bytes, "schedule": schedule, "seed": seed,
                 "seconds": of.seconds}  # fmt: skip
        answer = self.children.ask_device(of.source, of.seconds, order)
        if answer.get("late"):
            raise Failed(
                f"{kernel} takes more than {of.seconds} seconds in the simulator: is there a loop "
                "that never ends?",
                line,
            )
        if "fault" in answer:
            cause = f"{answer['cause']} {answer['remedy']}".strip().replace(f"{FILE}:", "line ")
            raise Failed(f"{answer['fault']} in {kernel}: {cause}", answer["line"] or line)
        for number, array in used.items():
            array[...] = answer["arrays"][number]
        self._launched.append(
            Launched(kernel, grid, block, tuple(parameters[kernel]), answer["report"])
        )


@dataclass(frozen=True)
class Remote:
    """An object of a class of the student's file.

    Attributes
    ----------
    student : Student
    number : int
    """

    student: Student
    number: int

    def call(self, method: str, *args: Any) -> Any:
        """Call a method, as :meth:`Student.call` calls a function."""
        return self._order("method", method, args)

    def raises(self, method: str, *args: Any) -> str | None:
        """Call a method; return the name of the exception that it raises, or None."""
        return self._order("method", method, args, may_raise=True)

    def get(self, attribute: str) -> Any:
        """Return an attribute."""
        return self._order("get", attribute, ())

    def _order(self, op: str, name: str, args: tuple[Any, ...], may_raise: bool = False) -> Any:
        order = {"op": op, "object": self.number, "name": name, "args": args}
        return self.student._order(order | {"may_raise": may_raise})
