"""A wire for arrays beside one for everything else.

Ranks need MPI, or what stands in for it, to meet and to tell each other small things. Arrays may
travel by another way. A carrier is such a way: it has the group's first communicator for all that
it does not do itself.
"""

from typing import Any

from llm_numba.parallel.alone import Alone
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array


class Carrier(Communicator):
    """A group whose arrays travel by a way of their own, as far as a subclass says.

    Parameters
    ----------
    host : Communicator
        Of the same ranks. It does all that a subclass does not, and what is no array always.
    """

    def __init__(self, host: Communicator) -> None:
        self.rank, self.size = host.rank, host.size
        self._host = host

    def split(self, colour: int) -> Communicator:
        """Form smaller groups whose arrays travel likewise, see :meth:`Communicator.split`."""
        group = self._host.split(colour)
        return Alone() if group.size == 1 else type(self)(group)

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        return self._host.start_send(x, to)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        return self._host.start_receive(out, source)

    def _all_reduce(self, x: Array, op: Reduction) -> None:
        self._host._all_reduce(x, op)

    def _all_gather(self, x: Array, out: Array) -> None:
        self._host._all_gather(x, out)

    def _reduce_scatter(self, x: Array, out: Array) -> None:
        self._host._reduce_scatter(x, out)

    def _broadcast(self, x: Array, root: int) -> None:
        self._host._broadcast(x, root)

    def _meet(self, what: str, value: Any, patient: bool = False) -> list[Any]:
        return self._host._meet(what, value, patient)

    def _tell(self, value: Any, root: int, patient: bool) -> Any:
        return self._host._tell(value, root, patient)

    def finish_telling(self) -> None:
        """Wait for the host's, see :meth:`Communicator.finish_telling`."""
        self._host.finish_telling()
