"""By which path arrays travel: a user's choice, or the best that works."""

from llm_numba.errors import ParallelError
from llm_numba.parallel.communicator import Communicator
from llm_numba.parallel.messages import MessageCommunicator

# By name; what each is, is in docs/parallel/communicators.md.
PATHS = ("mpi", "mpi-staged")


def check_path(path: str) -> None:
    """Refuse a path that there is not.

    Parameters
    ----------
    path : str
        "auto", or one of ``PATHS``.

    Raises
    ------
    ParallelError
    """
    if path not in ("auto", *PATHS):
        raise ParallelError(
            f"There is no path {path!r} for arrays of several ranks.",
            f"Choose one of: auto, {', '.join(PATHS)}.",
        )


def by_path(group: Communicator, path: str) -> Communicator:
    """Let the arrays of a group travel by a path.

    Parameters
    ----------
    group : Communicator
        Ranks that have met. One that is alone sends nothing, and stays as it is.
    path : str
        "auto" is ``mpi-staged`` for ranks of MPI; between threads there is one path only.

    Returns
    -------
    Communicator
        Of the same ranks.

    Raises
    ------
    ParallelError
        If there is no such path, or not between these ranks.
    """
    check_path(path)
    if group.size == 1 or path in ("auto", group.name):
        return group
    if group.name != "mpi-staged":
        raise ParallelError(
            f"These ranks exchange arrays by {group.name}, and {path} is not there for them.",
            "Leave comm='auto'.",
        )
    return MessageCommunicator(group)
