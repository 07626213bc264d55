"""A group of one rank: what everything runs with that is not told of others. Needs no MPI."""

from typing import Any

from llm_numba.errors import ParallelError
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.runtime import Array


class Alone(Communicator):
    """The only rank of its group: it gets back what it gives."""

    name = "alone"
    captures = True
    rank = 0
    size = 1

    def split(self, colour: int) -> "Alone":
        """Return this group, see :meth:`Communicator.split`."""
        return self

    def _meet(self, what: str, value: Any, patient: bool = False) -> list[Any]:
        return [value]

    def _tell(self, value: Any, root: int, patient: bool) -> Any:
        return value

    def finish_telling(self) -> None:
        """Do nothing: nobody is told."""

    def start_send(self, x: Array, to: int) -> Transfer:
        """Raise :class:`ParallelError`: there is nobody to send to."""
        raise _nobody_else()

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Raise :class:`ParallelError`: there is nobody who sends."""
        raise _nobody_else()


def _nobody_else() -> ParallelError:
    return ParallelError(
        "A rank that is alone exchanges no messages.", "Start more ranks: mpirun -n 2."
    )
