"""The grader's end of a student's launches: which arrays lie on the device, and what ran there."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grader import kernels
from grader.channel import DTYPES, ClosedError, OnDevice
from grader.children import Children
from grader.costs import Launched
from grader.device import FILE
from grader.submission import Submission
from grader.verdict import Failed

_MAX_THREADS = 1 << 20
_MAX_ELEMENTS = 1 << 24
_NUMBERS = bool | int | float | np.generic


@dataclass
class Launches:
    """Launches of one call, in the simulator or only written down.

    Attributes
    ----------
    submission : Submission
    children : Children
    record : bool
        Whether launches are written down and not run.
    arrays : dict of int to array
        What lies on the device, by number.
    launched : list of Launched
    recorded : list of dict
    """

    submission: Submission
    children: Children
    record: bool = False
    arrays: dict[int, np.ndarray] = field(default_factory=dict)
    launched: list[Launched] = field(default_factory=list)
    recorded: list[dict[str, Any]] = field(default_factory=list)

    def put(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put the arrays among some arguments on the device; return the arguments with numbers."""
        numbers = {id(array): number for number, array in self.arrays.items()}
        packed = []
        for value in args:
            if isinstance(value, np.ndarray):
                number = numbers.setdefault(id(value), len(numbers))
                self.arrays[number] = value
                value = OnDevice(number)
            packed.append(value)
        return tuple(packed)

    def kinds(self) -> dict[int, tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each array."""
        return {number: (each.shape, each.dtype.name) for number, each in self.arrays.items()}

    def answer(self, message: dict[str, Any]) -> Any:
        """Do what a launcher asks for: an array, or a launch."""
        match message["event"]:
            case "allocate":
                return self._allocate(message["shape"], message["dtype"], message["zero"])
            case "launch":
                order = {name: message[name] for name in
                         ("kernel", "grid", "block", "args", "shared_bytes")}  # fmt: skip
                self.launch(order, message["line"])
                return None
        raise ClosedError

    def launch(
        self, order: dict[str, Any], line: int = 0, schedule: str = "ordered", seed: int = 0
    ) -> None:
        """Run one launch, or write it down.

        Parameters
        ----------
        order : dict
            `kernel`, `grid`, `block`, `args` and `shared_bytes`.
        line : int
            Of the student's file, where it was launched.
        schedule, seed
            As of ``llm_numba.simulator.simulate``.
        """
        self._check(order, line)
        if self.record:
            self.recorded.append(order)
            return
        of, name = self.submission, order["kernel"]
        used = {each.device_number: self.arrays[each.device_number] for each in order["args"]
                if isinstance(each, OnDevice)}  # fmt: skip
        more = {"op": "launch", "arrays": used, "schedule": schedule, "seed": seed,
                "seconds": of.seconds}  # fmt: skip
        answer = self.children.ask_device(of.source, of.seconds, order | more)
        self.check_answer(answer, name, line)
        for number, array in used.items():
            array[...] = answer["arrays"][number]
        parameters = tuple(kernels.take_out(of.tree).launchable()[name])
        self.launched.append(
            Launched(name, order["grid"], order["block"], parameters, answer["report"])
        )

    def check_answer(self, answer: dict[str, Any], name: str, line: int = 0) -> None:
        """Fail if the device says that something went wrong."""
        if answer.get("late"):
            raise Failed(
                f"{name} takes more than {self.submission.seconds} seconds: is there a loop that "
                "never ends?",
                line,
            )
        if "fault" in answer:
            self._check_names(answer["cause"])
            cause = f"{answer['cause']} {answer['remedy']}".strip().replace(f"{FILE}:", "line ")
            raise Failed(f"{answer['fault']} in {name}: {cause}", answer["line"] or line)

    def _check_names(self, cause: str) -> None:
        """Say why a kernel cannot see a name that stands in the file."""
        missing = re.search(r"name '(\w+)' is not defined", cause)
        others = kernels.take_out(self.submission.tree).others
        if missing and missing[1] in others:
            raise Failed(
                f"A kernel cannot use {missing[1]}: what kernels use is a number or a tuple that "
                "stands at the top level as plain arithmetic, such as PITCH = TILE + 1.",
                others[missing[1]],
            )

    def _allocate(self, shape: tuple[int, ...], dtype: str, zero: bool) -> int:
        if not all(isinstance(each, int) and each >= 0 for each in shape) or dtype not in DTYPES:
            raise Failed(f"There is no array of shape {list(shape)} and dtype {dtype}.")
        if np.prod(shape, dtype=float) > _MAX_ELEMENTS:
            raise Failed(f"An array of shape {list(shape)} is larger than this lab needs.")
        array = np.zeros(shape, dtype)
        if not zero and array.dtype.kind == "f":
            array[...] = np.nan  # whatever lay there
        return self.put((array,))[0].device_number

    def _check(self, order: dict[str, Any], line: int) -> None:
        name, grid, block = order["kernel"], order["grid"], order["block"]
        if name not in kernels.take_out(self.submission.tree).launchable():
            raise Failed(
                f"There is no kernel {name!r}: a kernel stands at the top level of the file under "
                "@cuda.jit, without a signature.",
                line,
            )
        if np.prod(grid, dtype=float) * np.prod(block, dtype=float) > _MAX_THREADS:
            raise Failed(
                f"{name} is launched with a grid of {grid} and a block of {block}: more threads "
                "than this lab needs.",
                line,
            )
        strange = [
            each
            for each in order["args"]
            if not isinstance(each, _NUMBERS)
            and not (isinstance(each, OnDevice) and each.device_number in self.arrays)
        ]
        if strange:
            raise Failed(
                f"{name} gets a {type(strange[0]).__name__}, which is neither an array of the "
                "device nor a number. Arrays of a launcher are those that it is given, and what "
                "llm_numba.runtime.empty and zeros return.",
                line,
            )
        if 0 in np.atleast_1d(grid):
            raise Failed(f"{name} is launched with an empty grid, {grid}.", line)
