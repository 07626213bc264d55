"""Python twins: what stands in for each operation that a kernel calls by name.

A twin computes for all threads of a group at once::

    @twin(math.sqrt)                     # thread by thread
    def _(lanes, x): ...

    @twin(cuda.shfl_xor_sync, collective=True)   # the first operand is the member mask
    def _(lanes, mask, value, lane_mask): ...

Registers come as described in :mod:`llm_numba.simulator.values`: a NumPy array with one entry a
thread, or a NumPy scalar where all threads agree. They have the types of Numba's signature.
``lanes`` is the :class:`~llm_numba.simulator.lanes.Lanes` that executes the call. A twin returns
an array, a scalar, a tuple of these, or None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Twin:
    """A registered twin.

    Attributes
    ----------
    function : callable
    collective : bool
        The warp's lanes in the member mask, the first operand, must execute it together.
    loads : bool
        Its result comes out of memory that other threads may change.
    whole_warp : bool
        Collective, and no operand is a mask: all lanes of the warp must execute it.
    typed : bool
        It takes Numba's signature as keyword ``signature``.
    barrier : str or None
        Whose threads wait for each other at it; see :meth:`Barriers.arrive`.
    """

    function: Callable[..., Any]
    collective: bool = False
    loads: bool = False
    typed: bool = False
    barrier: str | None = None
    whole_warp: bool = False


_twins: dict[Any, Twin] = {}


def twin(
    *operations: Any,
    collective: bool = False,
    loads: bool = False,
    typed: bool = False,
    barrier: str | None = None,
    whole_warp: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the twin of one or several operations.

    Parameters
    ----------
    *operations
        What the kernel calls: a function of :mod:`numba.cuda`, an ``@intrinsic``, ``math.sqrt``.
    collective : bool
        Whether lanes of a warp work together. Those named by the first operand, the member mask,
        are brought together before the twin runs.
    loads : bool
        Whether the result is read from memory, so that a loop over it may be waiting for another
        thread.
    typed : bool
        Whether the twin wants Numba's signature of the call as keyword argument ``signature``.
    barrier : {"block", "cluster", "beginning", "grid", "named"}, optional
        For a barrier: whose threads wait for each other. The function is never called. Of a named
        one, the operands are its number and how many threads meet.
    whole_warp : bool
        Whether a collective operation has no mask, for all lanes of the warp take part.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for operation in operations:
            _twins[operation] = Twin(function, collective, loads, typed, barrier, whole_warp)
        return function

    return register


def find_twin(operation: Any) -> Twin | None:
    """Return the twin of an operation; None if it has none."""
    try:
        return _twins.get(operation)
    except TypeError:  # not hashable
        return None
