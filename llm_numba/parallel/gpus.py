"""Which GPU each rank takes, and which ranks see each other's.

A rank takes the first GPU that it sees and that no rank before it has taken. Where all ranks of a
host see all of its GPUs, that is the one with the rank's number on that host. Batch systems may
show each rank one GPU alone, which is then number 0 for each; so GPUs are told apart by their
identifiers, not by their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_numba.errors import ParallelError


@dataclass(frozen=True)
class Sight:
    """What a rank sees.

    Attributes
    ----------
    host : str
        Where it runs.
    gpus : tuple of str
        The identifiers of GPUs that it may use, in the order of its own numbers for them.
    """

    host: str
    gpus: tuple[str, ...]


def share_gpus(views: Sequence[Sight]) -> list[str]:
    """Give each rank a GPU of its own.

    Parameters
    ----------
    views : sequence of Sight
        Rank 0's first.

    Returns
    -------
    list of str
        The identifier of each rank's GPU.

    Raises
    ------
    ParallelError
        If a host has more ranks than GPUs.
    """
    taken: list[str] = []
    for view in views:
        free = [gpu for gpu in view.gpus if gpu not in taken]
        if not free:
            here = [each for each in views if each.host == view.host]
            count = len({gpu for each in here for gpu in each.gpus})
            raise ParallelError(
                f"{len(here)} ranks run on {view.host}, which shows them {count}"
                f" GPU{'' if count == 1 else 's'}; each rank needs one of its own.",
                "Start as many ranks as there are GPUs, or let them compute on CPUs: --device cpu.",
            )
        taken.append(free[0])
    return taken


def hidden_gpu(views: Sequence[Sight], gpus: Sequence[str], members: Sequence[int]) -> str:
    """Say why ranks cannot reach into each other's memory.

    Parameters
    ----------
    views : sequence of Sight
    gpus : sequence of str
        Of each rank, see :func:`share_gpus`.
    members : sequence of int
        Some of the ranks.

    Returns
    -------
    str
        Empty if nothing is in the way that one could know without trying.
    """
    for rank in members:
        for other in members:
            if views[rank].host != views[other].host:
                return f"ranks {rank} and {other} run on different hosts"
            if gpus[other] not in views[rank].gpus:
                return (
                    f"rank {rank} does not see the GPU of rank {other}: the batch system shows"
                    " each rank its own alone. Let all see all of them (srun --gpu-bind=none, and"
                    " no --gpus-per-task)"
                )
    return ""
