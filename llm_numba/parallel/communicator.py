"""What ranks say to each other, whichever wire carries it.

A *rank* is one of P programs that run the same code on parts of one model. A communicator is a
group of them. All ranks of a group call the same operations in the same order::

    before            rank 0     rank 1        after            rank 0     rank 1
    all_reduce        a          b                              a + b      a + b
    all_gather        a          b                              a b        a b
    reduce_scatter    a0 a1      b0 b1                          a0 + b0    a1 + b1
    broadcast         a          ?                              a          a

An all-reduce is a reduce-scatter and then an all-gather; it often travels as these two.

A sum of floating-point numbers depends on their order. Every communicator adds in the order of
ranks or in another that is the same for all of them: each rank then holds the same bits, and takes
the same decisions from them without asking the others.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from llm_numba import ops
from llm_numba.errors import ParallelError
from llm_numba.parallel import checks
from llm_numba.parallel.wording import named
from llm_numba.reference.rank_sums import Reduction, combine_parts
from llm_numba.runtime import Array, by_host, empty, to_host, write_to


class Transfer(ABC):
    """A message under way."""

    @abstractmethod
    def wait(self) -> Array:
        """Wait until the array may be read and written again, and return it."""


class Communicator(ABC):
    """A group of ranks that exchange arrays.

    Arrays are C-contiguous, of the host or a device, and of the same shape and dtype on all ranks
    that take part. Work on a GPU is ordered on the current stream, as everywhere.

    Attributes
    ----------
    name : str
        What carries the arrays: ``"alone"``, ``"threads"``, ``"mpi-staged"``.
    captures : bool
        A CUDA graph can hold what it does to arrays of GPUs: the host waits for nothing in it.
        Elsewhere it cuts a graph in pieces, see :mod:`llm_numba.runtime.graphs`.
    rank : int
        This rank's number in the group, from 0.
    size : int
        The number of ranks.
    """

    name: str
    captures: bool = False
    rank: int
    size: int

    def all_reduce(self, x: Array, op: Reduction = "sum") -> Array:
        """Add up an array over all ranks, in place.

        Parameters
        ----------
        x : array
            Of numbers. Those of 16 bits are added in float32 and rounded once.
        op : {"sum", "max"}

        Returns
        -------
        array
            `x`, which then has the same bits on every rank.

        Raises
        ------
        ParallelError
            If `x` is not contiguous or holds no numbers, or if another rank has failed.
        """
        checks.numbers("all_reduce", x)
        if self.size > 1 and x.size:
            self._all_reduce(x, op)
        return x

    def all_reduce_norm(
        self, x: Array, residual: Array, weight: Array, eps: float
    ) -> tuple[Array, Array]:
        """Add up over all ranks, add to the residual stream once, and RMS-normalise the sum.

        One kernel where the ranks' path has one. The bits are the same wherever that is: those of
        :meth:`all_reduce`, and then of :func:`llm_numba.ops.add_rms_norm`.

        Parameters
        ----------
        x : float [M, E]
            This rank's part of the sum. It may be overwritten.
        residual : float [M, E]
            The same on all ranks.
        weight : float [E]
        eps : float

        Returns
        -------
        normed, total : float [M, E]

        Raises
        ------
        ParallelError
            As :meth:`all_reduce`.
        """
        return ops.add_rms_norm(self.all_reduce(x), residual, weight, eps)

    def all_gather(self, x: Array) -> Array:
        """Put the arrays of all ranks one after another.

        Parameters
        ----------
        x : array [n, ...]

        Returns
        -------
        array [P n, ...]
            A new one, rank 0's part first.

        Raises
        ------
        ParallelError
            If `x` is not contiguous or has no axis, or if another rank has failed.
        """
        checks.array("all_gather", x)
        if x.ndim == 0:
            raise ParallelError(
                "all_gather got an array without an axis.", "Give a single number the shape [1]."
            )
        out = empty((self.size * x.shape[0], *x.shape[1:]), x.dtype, like=x)
        if self.size == 1:
            out[...] = x
        elif x.size:
            self._all_gather(x, out)
        return out

    def reduce_scatter(self, x: Array) -> Array:
        """Add up an array over all ranks, and give each rank its part of the sum.

        Parameters
        ----------
        x : array [P n, ...]
            Of numbers. Those of 16 bits are added in float32 and rounded once.

        Returns
        -------
        array [n, ...]
            A new one: rows ``rank * n`` to ``(rank + 1) * n`` of the sum.

        Raises
        ------
        ParallelError
            If `x` is not contiguous, holds no numbers or does not divide into P parts, or if
            another rank has failed.
        """
        checks.numbers("reduce_scatter", x)
        if x.ndim == 0 or x.shape[0] % self.size:
            raise ParallelError(
                f"reduce_scatter cannot divide shape {list(x.shape)} among {self.size} ranks.",
                "Its first axis must be a multiple of the number of ranks.",
            )
        out = empty((x.shape[0] // self.size, *x.shape[1:]), x.dtype, like=x)
        if self.size == 1:
            out[...] = x
        elif x.size:
            self._reduce_scatter(x, out)
        return out

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Give all ranks what one of them has, in place.

        Parameters
        ----------
        x : array
        root : int
            The rank that has it.

        Returns
        -------
        array
            `x`.

        Raises
        ------
        ParallelError
            If `x` is not contiguous, if there is no such rank, or if another rank has failed.
        """
        checks.array("broadcast", x)
        checks.rank(root, self.size)
        if self.size > 1 and x.size:
            self._broadcast(x, root)
        return x

    def send(self, x: Array, to: int) -> None:
        """Send an array to another rank, which must receive it.

        Returns when `x` may be written again. That can be as late as the other rank's
        :meth:`receive`: two ranks that both send first wait for ever.

        Parameters
        ----------
        x : array
        to : int

        Raises
        ------
        ParallelError
            See :meth:`start_send`.
        """
        self.start_send(x, to).wait()

    def receive(self, out: Array, source: int) -> Array:
        """Receive an array that another rank sends.

        Parameters
        ----------
        out : array
            Of the shape and dtype that is sent.
        source : int

        Returns
        -------
        array
            `out`.

        Raises
        ------
        ParallelError
            See :meth:`start_receive`.
        """
        return self.start_receive(out, source).wait()

    @abstractmethod
    def start_send(self, x: Array, to: int) -> Transfer:
        """Begin to send an array; it must not be written before the transfer is waited for.

        Messages between two ranks arrive in the order in which they were begun.

        Parameters
        ----------
        x : array
        to : int

        Raises
        ------
        ParallelError
            If `x` is not contiguous, if there is no such other rank, or, here or in ``wait``, if
            another rank has failed.
        """

    @abstractmethod
    def start_receive(self, out: Array, source: int) -> Transfer:
        """Begin to receive an array; it is there when the transfer has been waited for.

        Parameters
        ----------
        out : array
            Of the shape and dtype that is sent.
        source : int

        Raises
        ------
        ParallelError
            If `out` is not contiguous, if there is no such other rank, or, here or in ``wait``,
            if the message is another one or if another rank has failed.
        """

    def barrier(self) -> None:
        """Wait until all ranks are here.

        Raises
        ------
        ParallelError
            If another rank has failed.
        """
        self._meet("barrier", None)

    def tell(self, value: Any, root: int = 0, *, patient: bool = False) -> Any:
        """Give all ranks a small Python object that one of them has.

        That one need not wait until the others have it, unless it is too long for one message.
        Before it waits for anything else it calls :meth:`finish_telling`, for MPI may carry nothing
        meanwhile.

        Parameters
        ----------
        value : object
            Anything that pickles. Only that of `root` counts.
        root : int
        patient : bool
            However long the others wait for `root`, it has not stalled: it may have nothing to
            do.

        Returns
        -------
        object
            What `root` gave.

        Raises
        ------
        ParallelError
            If there is no such rank, or if another rank has failed.
        """
        checks.rank(root, self.size)
        return self._tell(value, root, patient)

    @abstractmethod
    def finish_telling(self) -> None:
        """Wait until all ranks have heard what this one has told them."""

    def exchange(self, value: Any, *, patient: bool = False) -> list[Any]:
        """Give all ranks the small Python objects of all ranks.

        Parameters
        ----------
        value : object
            Anything that pickles.
        patient : bool
            However long it takes, nobody has stalled: ranks may read files of different sizes.

        Returns
        -------
        list of object
            Rank 0's first.

        Raises
        ------
        ParallelError
            If another rank has failed.
        """
        return self._meet("exchange", value, patient)

    @abstractmethod
    def split(self, colour: int) -> "Communicator":
        """Form smaller groups: of all ranks that give the same colour.

        Parameters
        ----------
        colour : int

        Returns
        -------
        Communicator
            This rank's group, in which ranks keep their order.

        Raises
        ------
        ParallelError
            If another rank has failed.
        """

    @abstractmethod
    def _meet(self, what: str, value: Any, patient: bool = False) -> list[Any]:
        """Give all ranks the values of all. `what` is the same for all: the operation's name."""

    # Each operation made of `_meet`. A wire overrides what it carries better, and says of each
    # whether the host takes part. Arguments are checked, arrays are not empty, and there is
    # another rank.

    @by_host
    def _all_reduce(self, x: Array, op: Reduction) -> None:
        parts = self._meet(named("all_reduce", x, op), to_host(x))
        write_to(x, combine_parts(np.stack(parts), op))

    @by_host
    def _all_gather(self, x: Array, out: Array) -> None:
        write_to(out, np.concatenate(self._meet(named("all_gather", x), to_host(x))))

    @by_host
    def _reduce_scatter(self, x: Array, out: Array) -> None:
        mine = slice(self.rank * out.shape[0], (self.rank + 1) * out.shape[0])
        parts = self._meet(named("reduce_scatter", x), to_host(x))
        write_to(out, combine_parts(np.stack([part[mine] for part in parts])))

    @by_host
    def _broadcast(self, x: Array, root: int) -> None:
        mine = to_host(x) if self.rank == root else None
        value = self._meet(named("broadcast", x, f"from rank {root}"), mine)[root]
        if self.rank != root:
            write_to(x, value)

    @abstractmethod
    def _tell(self, value: Any, root: int, patient: bool) -> Any: ...

    def _check_message(self, what: str, x: Array, other: int) -> None:
        checks.array(what, x)
        checks.rank(other, self.size)
        if other == self.rank:
            raise ParallelError(
                f"Rank {other} was asked to {what} a message of its own.", "Name another rank."
            )
