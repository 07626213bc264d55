"""The paths that arrays may travel by, and their choice for a group of ranks.

==============  ===================================================================
mpi-staged      MPI between the memories of hosts, see :mod:`.staged`
mpi             messages of MPI, and sums of our own, see :mod:`.messages`
==============  ===================================================================
"""

from collections.abc import Callable
from pathlib import Path

from llm_numba.errors import ParallelError
from llm_numba.parallel.by_size import BySize
from llm_numba.parallel.communicator import Communicator
from llm_numba.parallel.messages import MessageCommunicator
from llm_numba.parallel.selection import Offer, read_times, select

# How each is made of the communicator by which ranks have met.
_MADE: dict[str, Callable[[Communicator], Communicator]] = {
    "mpi-staged": lambda host: host,
    "mpi": MessageCommunicator,
}
PATHS = tuple(_MADE)


def check_comm(comm: str) -> None:
    """Refuse a choice that there is not.

    Parameters
    ----------
    comm : str
        "auto", one of ``PATHS``, or the name of a record: ``FILE.json``.

    Raises
    ------
    ParallelError
    """
    if comm not in ("auto", *PATHS) and not comm.endswith(".json"):
        raise ParallelError(
            f"There is no path {comm!r} for the arrays of several ranks.",
            f"Choose one of: auto, {', '.join(PATHS)}; or a record of bench comm, FILE.json.",
        )


def offers_between(group: Communicator) -> list[Offer]:
    """Say which paths there are between some ranks.

    Parameters
    ----------
    group : Communicator
        By which they have met.

    Returns
    -------
    list of Offer
    """
    if group.name != "mpi-staged":
        return [Offer(group.name)]
    return [Offer(path) for path in PATHS]


def connect(group: Communicator, comm: str) -> Communicator:
    """Let the arrays of a group travel by what a user has chosen.

    Parameters
    ----------
    group : Communicator
        Ranks that have met, all of which do this.
    comm : str
        See :func:`check_comm`. "auto" is the first path that works; of a record the fastest one,
        by operation and size.

    Returns
    -------
    Communicator
        Of the same ranks. One that is alone sends nothing, and stays as it is.

    Raises
    ------
    ParallelError
        If there is no such path between these ranks, or no such record.
    """
    check_comm(comm)
    if group.size == 1:
        return group
    if comm.endswith(".json"):
        chosen = select(offers_between(group), "auto", read_times(Path(comm), group.size))
    else:
        chosen = select(offers_between(group), comm)
    if not chosen.times:
        return _made(group, chosen.paths[0])
    return BySize(group, {path: _made(group, path) for path in chosen.paths}, chosen)


def _made(group: Communicator, path: str) -> Communicator:
    return _MADE[path](group) if path in _MADE else group
