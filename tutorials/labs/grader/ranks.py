"""A rank's end of a communicator: what a lab's function gets as `comm`.

The names and their meaning are those of ``llm_numba.parallel.Communicator``. Each rank is a
process of its own, and every message goes through the grader, which counts it.
"""

from typing import Any

import numpy as np

OPERATIONS = (
    "send", "receive", "start_send", "start_receive",
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier",
)  # fmt: skip


class Transfer:
    """A message under way."""

    def __init__(self, program: Any, number: int, array: np.ndarray, arrives: bool) -> None:
        self._program = program
        self._number = number
        self._array = array
        self._arrives = arrives
        self._sent = None if arrives else array.copy()

    def wait(self) -> np.ndarray:
        """Wait until the array may be read and written again, and return it."""
        self.check_unwritten()
        data = self._program.ask("wait", number=self._number, line=self._program.line())
        if self._arrives:
            self._array[...] = data
        return self._array

    def check_unwritten(self) -> None:
        """Raise ValueError if what is being sent has been written."""
        if self._sent is not None and not np.array_equal(self._sent, self._array, equal_nan=True):
            raise ValueError("this array was written before its transfer had been waited for")


class Rank:
    """A group of ranks, as one of them sees it.

    Attributes
    ----------
    rank, size : int
    """

    def __init__(self, program: Any, rank: int, size: int, allow: tuple[str, ...]) -> None:
        self.rank = rank
        self.size = size
        self._program = program
        self._allow = allow
        self._number = 0

    def send(self, x: np.ndarray, to: int) -> None:
        """Send an array; return when the other rank has received it."""
        self._permit("send")
        self._post(True, x, to).wait()

    def receive(self, out: np.ndarray, source: int) -> np.ndarray:
        """Receive an array of the shape and dtype of `out` into it."""
        self._permit("receive")
        return self._post(False, out, source).wait()

    def start_send(self, x: np.ndarray, to: int) -> Transfer:
        """Begin to send an array, which must not be written before the transfer is waited for."""
        self._permit("start_send")
        return self._post(True, x, to)

    def start_receive(self, out: np.ndarray, source: int) -> Transfer:
        """Begin to receive an array; it is there when the transfer has been waited for."""
        self._permit("start_receive")
        return self._post(False, out, source)

    def all_reduce(self, x: np.ndarray, op: str = "sum") -> np.ndarray:
        """Add up an array over all ranks (or take the maximum), in place."""
        x[...] = self._meet("all_reduce", x, op)
        return x

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        """Return the arrays of all ranks, one after another."""
        return self._meet("all_gather", x)

    def reduce_scatter(self, x: np.ndarray) -> np.ndarray:
        """Return this rank's part of the sum."""
        return self._meet("reduce_scatter", x)

    def broadcast(self, x: np.ndarray, root: int = 0) -> np.ndarray:
        """Give all ranks what one of them has, in place."""
        x[...] = self._meet("broadcast", x, root)
        return x

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self._meet("barrier", np.zeros(0, np.float32))

    def tick(self, label: str = "") -> None:
        """Say that this rank computes for one slot of time."""
        self._program.tell("tick", label=str(label))

    def _permit(self, operation: str) -> None:
        if operation not in self._allow:
            raise ValueError(
                f"this lab does not allow comm.{operation}; it allows {', '.join(self._allow)}"
            )

    def _post(self, sends: bool, array: np.ndarray, other: int) -> Transfer:
        _check(array)
        if not 0 <= other < self.size or other == self.rank:
            raise ValueError(f"rank {self.rank} cannot exchange with rank {other}")
        return self._begin(sends, array, int(other))

    def _meet(self, operation: str, x: np.ndarray, option: Any = None) -> np.ndarray:
        self._permit(operation)
        _check(x)
        return self._join(operation, x, option)

    # What carries the messages.

    def _begin(self, sends: bool, array: np.ndarray, other: int) -> Transfer:
        self._number += 1
        event = "post_send" if sends else "post_receive"
        self._program.tell(event, number=self._number, other=other,
                           content=array if sends else None, shape=array.shape,
                           dtype=array.dtype.name, line=self._program.line())  # fmt: skip
        return Transfer(self._program, self._number, array, not sends)

    def _join(self, operation: str, x: np.ndarray, option: Any) -> np.ndarray:
        return self._program.ask("meet", operation=operation, content=x, option=option,
                                 line=self._program.line())  # fmt: skip


def _check(array: Any) -> None:
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise TypeError("a communicator takes contiguous NumPy arrays (np.ascontiguousarray)")
