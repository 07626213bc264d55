"""The paths that arrays may travel by, and their choice for a group of ranks.

==============  =============  ==================================================================
path            arrays of      by
==============  =============  ==================================================================
peer            GPUs           kernels that read other GPUs' memory, see :mod:`.peer_ipc`; what is
                               no sum of theirs, and messages, by the next path that works
nccl            GPUs           NVIDIA's library, see :mod:`.nccl`
mpi             all            messages of MPI, and sums of our own, see :mod:`.messages`; between
                               GPUs without the host, see :mod:`.direct`
mpi-staged      all            MPI between the memories of hosts, see :mod:`.staged`; those of GPUs
                               are copied there and back: within a host through memory that both
                               ranks have pinned, see :mod:`.shared`, else see :mod:`.bounce`
==============  =============  ==================================================================
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from llm_numba.errors import ParallelError
from llm_numba.parallel.by_size import BySize
from llm_numba.parallel.communicator import Communicator
from llm_numba.parallel.direct import DirectCommunicator
from llm_numba.parallel.measured import TimesTable
from llm_numba.parallel.messages import MessageCommunicator, StagedMessages
from llm_numba.parallel.nccl import NCCLCommunicator, nccl_problem
from llm_numba.parallel.probing import messages_problem
from llm_numba.parallel.selection import Offer, Selection, read_times, select
from llm_numba.parallel.shared import SharedCommunicator
from llm_numba.parallel.staged import StagedCommunicator

# How each is made of the communicator by which ranks have met; the best first.
_OF_GPUS: dict[str, Callable[[StagedCommunicator], Communicator]] = {
    "nccl": NCCLCommunicator,
    "mpi": lambda host: MessageCommunicator(host.again(DirectCommunicator)),
    "mpi-staged": lambda host: StagedMessages(host.again(SharedCommunicator)),
}
_OF_HOSTS: dict[str, Callable[[StagedCommunicator], Communicator]] = {
    "mpi-staged": lambda host: host,
    "mpi": MessageCommunicator,
}
PATHS = ("peer", *_OF_GPUS)
PATHS_OF_HOSTS = tuple(_OF_HOSTS)
# Those that a CUDA graph can hold.
CAPTURED = ("peer", "nccl")


class BrokenPathError(ParallelError):
    """A path that was offered does not work when it is taken.

    Parameters
    ----------
    path : str
    error : ParallelError
        What happened.

    Attributes
    ----------
    path : str
    """

    def __init__(self, path: str, error: ParallelError) -> None:
        super().__init__(error.cause, error.remedy)
        self.path = path


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


def offers_between(
    group: Communicator, device: str = "cpu", wanted: str = "auto", hidden: str = ""
) -> list[Offer]:
    """Say which paths there are between some ranks, and try those that may be needed.

    Parameters
    ----------
    group : Communicator
        By which they have met. All of them do this.
    device : {"cpu", "cuda", "sim"}
        Of the arrays.
    wanted : str
        What the user wants. "all", or a record, needs to know of every path; "auto" tries no more
        than it takes to find one.
    hidden : str
        Why these ranks cannot reach into each other's GPUs, as far as one knows.

    Returns
    -------
    list of Offer
        The same on all ranks.
    """
    if group.name != "mpi-staged":
        return [Offer(group.name)]
    if device != "cuda":
        absent = [path for path in PATHS if path not in PATHS_OF_HOSTS]
        problem = "it moves arrays of GPUs, and these are the host's"
        return [*map(Offer, _OF_HOSTS), *(Offer(path, problem) for path in absent)]
    nccl = _first(group.exchange(nccl_problem()))
    offers = [Offer("peer", hidden), Offer("nccl", nccl)]
    if wanted in ("mpi", "all") or wanted.endswith(".json") or nccl:
        # One program tries it for all, with ranks of its own.
        problem = messages_problem() if group.rank == 0 else ""
        offers.append(Offer("mpi", group.tell(problem, patient=True)))
    else:
        offers.append(Offer("mpi", "nobody needed it, so nobody tried it: --comm mpi does"))
    return [*offers, Offer("mpi-staged")]


def choose(
    comm: str, offers: Sequence[Offer], num_ranks: int, table: TimesTable | None = None
) -> Selection:
    """Choose what carries which array.

    Parameters
    ----------
    comm : str
        See :func:`check_comm`. A record's fastest path, by operation and size; "auto" does the same
        by a table if there is one, and is else the first path that works.
    offers : sequence of Offer
        From :func:`offers_between`.
    num_ranks : int
        Of the group.
    table : TimesTable, optional
        Measured on such a machine.

    Returns
    -------
    Selection

    Raises
    ------
    ParallelError
        If there is no such path between these ranks, or no such record.
    """
    if comm.endswith(".json"):
        return select(offers, "auto", read_times(Path(comm), num_ranks), comm)
    if comm != "auto" or table is None:
        return select(offers, comm)
    # A graph of a step must hold all that the step sends: one path that it cannot hold is too many.
    held = [offer for offer in offers if offer.problem or offer.path in CAPTURED]
    usable = offers if all(offer.problem for offer in held) else held
    return select(usable, "auto", table.times, f"{table.source['file']}, of {table.kind}")


def connect(
    group: Communicator, chosen: Selection, offers: Sequence[Offer], device: str = "cpu"
) -> Communicator:
    """Let the arrays of a group travel as was chosen.

    Parameters
    ----------
    group : Communicator
        Ranks that have met, all of which do this.
    chosen : Selection
        From :func:`choose`, the same on all ranks.
    offers : sequence of Offer
        From :func:`offers_between` of all ranks.
    device : {"cpu", "cuda", "sim"}
        Of the arrays.

    Returns
    -------
    Communicator
        Of the same ranks. One that is alone sends nothing, and stays as it is.

    Raises
    ------
    BrokenPathError
        On all ranks, if a path turns out not to work.
    """
    if group.size == 1:
        return group
    working = [offer.path for offer in offers if not offer.problem]
    groups = {}
    for path in chosen.used:
        try:
            groups[path] = _made(path, group, device, working)
        except ParallelError as error:
            raise BrokenPathError(path, error) from error
    return BySize(group, groups, chosen) if chosen.times else groups[chosen.used[0]]


def _made(path: str, group: Communicator, device: str, working: Sequence[str]) -> Communicator:
    if path == "peer":
        # Its kernels bring Numba, which nobody else here needs.
        from llm_numba.parallel.peer_ipc import PeerCommunicator

        others = [each for each in working if each != "peer"]
        return PeerCommunicator(_made(others[0], group, device, others))
    made = _OF_GPUS if device == "cuda" else _OF_HOSTS
    return made[path](group) if path in made else group


def _first(problems: Sequence[str]) -> str:
    found = [(rank, problem) for rank, problem in enumerate(problems) if problem]
    return f"on rank {found[0][0]} {found[0][1]}" if found else ""
