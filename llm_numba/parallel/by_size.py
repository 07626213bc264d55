"""Several paths between the same ranks, and for each array the one that was measured to be best."""

from collections import Counter
from collections.abc import Mapping

from llm_numba.parallel.alone import Alone
from llm_numba.parallel.carrier import Carrier
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.parallel.selection import Selection
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array


class BySize(Carrier):
    """A group whose arrays go by the path that is best for their operation and size.

    Parameters
    ----------
    host : Communicator
        For all that is no array.
    paths : mapping of str to Communicator
        Of the same ranks, by their names.
    selection : Selection
        The same on all ranks.

    Attributes
    ----------
    carried : Counter of (str, str)
        How often each operation went by each path.
    """

    def __init__(
        self, host: Communicator, paths: Mapping[str, Communicator], selection: Selection
    ) -> None:
        super().__init__(host)
        self.name = "+".join(paths)
        self.captures = all(path.captures for path in paths.values())
        self.carried: Counter[tuple[str, str]] = Counter()
        self._paths = paths
        self._selection = selection
        self._chosen: dict[tuple[str, int], str] = {}

    def split(self, colour: int) -> Communicator:
        """Form smaller groups with the same paths, see :meth:`Communicator.split`."""
        host = self._host.split(colour)
        groups = {name: path.split(colour) for name, path in self._paths.items()}
        return Alone() if host.size == 1 else BySize(host, groups, self._selection)

    def all_reduce_norm(
        self, x: Array, residual: Array, weight: Array, eps: float
    ) -> tuple[Array, Array]:
        """Add up and normalise, see :meth:`Communicator.all_reduce_norm`."""
        return self._path("all_reduce", x).all_reduce_norm(x, residual, weight, eps)

    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array, see :meth:`Communicator.start_send`."""
        return self._path("send", x).start_send(x, to)

    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array, see :meth:`Communicator.start_receive`."""
        return self._path("send", out).start_receive(out, source)

    def _all_reduce(self, x: Array, op: Reduction) -> None:
        self._path("all_reduce", x)._all_reduce(x, op)

    def _all_gather(self, x: Array, out: Array) -> None:
        self._path("all_gather", out)._all_gather(x, out)

    def _reduce_scatter(self, x: Array, out: Array) -> None:
        self._path("reduce_scatter", x)._reduce_scatter(x, out)

    def _broadcast(self, x: Array, root: int) -> None:
        self._path("broadcast", x)._broadcast(x, root)

    def _path(self, operation: str, x: Array) -> Communicator:
        key = operation, x.nbytes
        if key not in self._chosen:
            self._chosen[key] = self._selection.path_of(*key)
        name = self._chosen[key]
        self.carried[operation, name] += 1
        return self._paths[name]
