"""A student's file as a check uses it: launch its kernels, call its functions, count."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from grader.channel import ClosedError, LateError, OnDevice
from grader.children import Children, HostChild, patience
from grader.costs import Raced, Ran
from grader.launching import Launches
from grader.ranks import OPERATIONS
from grader.routing import Ranks, route
from grader.submission import Submission
from grader.verdict import Failed, short


@dataclass
class Student:
    """What a check gets: the student's file, in fresh children.

    Attributes
    ----------
    submission : Submission
    children : Children
    printed : str
        What the student's program printed.
    told : str
        What it last told the check: ``"share returned None"``.
    raced : Raced or None
        Its last race.
    float64 : set of int
        Lines of its kernels that compute in float64.
    """

    submission: Submission
    children: Children
    printed: str = ""
    told: str = "Your program has told nothing yet"
    raced: Raced | None = None
    float64: set[int] = field(default_factory=set)
    _host: HostChild | None = None

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
        launches = Launches(self.submission, self.children)
        order = {"kernel": kernel, "grid": grid, "block": block, "args": launches.put(args),
                 "shared_bytes": shared_bytes}  # fmt: skip
        launches.launch(order, schedule=schedule, seed=seed)
        return self._ran(launches)

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
        launches = Launches(self.submission, self.children)
        returned = self._call_launcher(launches, function, args)
        if isinstance(returned, OnDevice):
            returned = launches.arrays[returned.device_number]
        return self._ran(launches, returned)

    def _ran(self, launches: Launches, returned: Any = None) -> Ran:
        for each in launches.launched:
            self.float64.update(each.report["float64"])
        return Ran(tuple(launches.launched), returned)

    def race(
        self,
        function: str,
        *args: Any,
        grid: int | tuple[int, ...] | None = None,
        block: int | tuple[int, ...] = 1,
        shared_bytes: int = 0,
        against: str,
        against_args: tuple[Any, ...],
        **against_options: Any,
    ) -> Raced:
        """Run launches on the GPU, and time them beside one of our functions.

        Parameters
        ----------
        function : str
            A launcher; with a `grid`, a kernel.
        *args
            As of :meth:`run`; arrays hold what the launches left there on the GPU.
        grid, block, shared_bytes
            As of :meth:`launch`.
        against : str
            ``"module:function"``, one of the package's.
        against_args : tuple
            Its arguments; arrays that `args` has too are shared.
        **against_options
            More of them, by name.

        Returns
        -------
        Raced
        """
        launches = Launches(self.submission, self.children, record=True)
        if grid is None:
            self._call_launcher(launches, function, args)
        else:
            launches.launch({"kernel": function, "grid": grid, "block": block,
                             "args": launches.put(args), "shared_bytes": shared_bytes})  # fmt: skip
        if not launches.recorded:
            raise Failed(f"{function} launches no kernel.")
        order = {"op": "race", "launches": launches.recorded, "against": against,
                 "against_args": launches.put(against_args), "against_options": against_options,
                 "arrays": launches.arrays}  # fmt: skip
        of = self.submission
        answer = self.children.ask_device(of.source, of.seconds, order, "gpu")
        launches.check_answer(answer, function)
        for number, array in launches.arrays.items():
            array[...] = answer["arrays"][number]
        self.raced = Raced(tuple(answer["seconds"]), against)
        return self.raced

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
            ranks = route([host.channel for host in hosts], self)
        finally:
            for host in hosts:
                host.end()
        if self.children.mpirun:
            args = [args_of(rank) for rank in range(count)]
            ranks.values = self._by_mpirun(function, args, tuple(allow))
        self.told = f"{function} returned, on ranks 0, 1, ..., {short(ranks.values)}"
        return ranks

    def _by_mpirun(
        self, function: str, args: list[tuple[Any, ...]], allow: tuple[str, ...]
    ) -> list[Any]:
        """Run a function once more where MPI carries the messages; return what ranks return."""
        of = self.submission
        order = {"path": str(of.path), "source": of.source, "imports": list(of.imports),
                 "name": function, "allow": allow}  # fmt: skip
        try:
            said = self.children.ask_world(len(args), order, args)
        except (ClosedError, LateError):
            raise Failed(f"Under mpirun {function} crashed, or takes too long.") from None
        for message in said:
            if message["event"] == "raised":
                failure = self._raised(message)
                raise Failed(f"Under mpirun, rank {message['rank']}: {failure}", failure.line)
        return [message["value"] for message in said]

    def end(self) -> None:
        """End the child that runs the student's Python."""
        if self._host:
            self._host.end()
            self._host = None

    def _call_launcher(self, launches: Launches, name: str, args: tuple[Any, ...]) -> Any:
        packed = launches.put(args)
        order = {"op": "call", "name": name, "args": packed, "arrays": launches.kinds()}
        return self._order(order, launches.answer)

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
                verb = "is" if order["op"] == "get" else "returned"
                self.told = f"{order['name']} {verb} {short(message['value'])}"
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
            message = channel.receive(patience(seconds))
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
