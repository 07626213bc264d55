"""Links between ranks that see each other's memory: what the kernels of ``peer`` run on.

Each rank has one piece of memory that all others map, for its flags and slots, and a little of its
own. :mod:`llm_numba.kernels.peer_team` says what is written there, and by whom.
"""

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.kernels.peer_team import PeerLink
from llm_numba.runtime import zeros

# Blocks of the largest grid: fewer than any GPU of a node has SMs, so all of them run at once.
TEAMS = 64
# Bytes that a team shows at a time: a row of 8192 numbers of 16 bits, a MiB for all teams.
ROOM_BYTES = 16 * 1024
MOST_RANKS = 8

_ALIGNMENT = 256


def simulated_links(ranks: int, *, teams: int = 4, room_bytes: int = 1024) -> list[PeerLink]:
    """Make links between ranks of the simulator, where one array is the memory of all.

    Parameters
    ----------
    ranks : int
        P, from 2 to 8.
    teams : int
        Blocks of the largest grid.
    room_bytes : int
        That a team shows at a time; a multiple of 256.

    Returns
    -------
    list of PeerLink
        Rank 0's first.

    Raises
    ------
    ParallelError
        If there cannot be such links.
    """
    flag_bytes, size = layout(ranks, teams, room_bytes)
    memory = zeros((ranks, size), np.uint8, "sim")
    begins = memory.ctypes.data + size * np.arange(ranks)
    links = []
    for rank in range(ranks):
        flags, slots = parts(memory[rank], flag_bytes, teams, ranks)
        addresses = zeros((2, ranks), np.int64, "sim")
        addresses[...] = begins, begins + flag_bytes
        counters = zeros(teams, np.int32, "sim")
        links.append(PeerLink(rank, ranks, flags, slots, addresses, counters))
    return links


def layout(ranks: int, teams: int, room_bytes: int) -> tuple[int, int]:
    """Return where the slots begin in a rank's shared memory, and how large it is, in bytes.

    Parameters
    ----------
    ranks, teams, room_bytes : int
        As of :func:`simulated_links`.

    Returns
    -------
    flag_bytes, size : int

    Raises
    ------
    ParallelError
        If there cannot be such links.
    """
    if not 2 <= ranks <= MOST_RANKS:
        raise ParallelError(
            f"{ranks} ranks cannot be joined as peers.", f"Join 2 to {MOST_RANKS} of one host."
        )
    if teams < 1 or room_bytes < _ALIGNMENT or room_bytes % _ALIGNMENT:
        raise ParallelError(
            f"{teams} teams with {room_bytes} bytes each cannot be had.",
            f"Take at least one team, and bytes in multiples of {_ALIGNMENT}.",
        )
    flag_bytes = -(-teams * ranks * 4 // _ALIGNMENT) * _ALIGNMENT
    return flag_bytes, flag_bytes + 2 * teams * room_bytes


def parts(memory: np.ndarray, flag_bytes: int, teams: int, ranks: int) -> tuple:
    """Return flags and slots of a rank's shared memory, as :class:`PeerLink` has them.

    Parameters
    ----------
    memory : uint8 [size]
        Of CuPy or of the simulated device.
    flag_bytes : int
        Where the slots begin, from :func:`layout`.
    teams, ranks : int
    """
    flags = memory[: 4 * teams * ranks].view(np.int32).reshape(teams, ranks)
    return flags, memory[flag_bytes:]
