"""Links between ranks that see each other's memory: what the kernels of ``peer`` run on.

Each rank has one piece of memory that all others map, for its flags, slots and lines, and a little
of its own. :mod:`llm_numba.kernels.peer_team` and :mod:`llm_numba.kernels.peer_lines` say what is
written there, and by whom.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_numba.errors import ParallelError
from llm_numba.kernels.peer_team import PeerLink
from llm_numba.runtime import to_device, zeros

# Blocks of the largest grid: fewer than any GPU of a node has SMs, so all of them run at once.
TEAMS = 64
# Bytes that a team shows at a time, 16 MiB for all teams: what a round moves should take much
# longer than its meetings. With a quarter of it, sums between two H200s took up to a sixth longer.
ROOM_BYTES = 256 * 1024
# Bytes that it pushes: a row of 8192 numbers of 16 bits, a MiB for all teams.
PUSHED_BYTES = 16 * 1024
MOST_RANKS = 8

_ALIGNMENT = 256


def simulated_links(
    ranks: int, *, teams: int = 4, room_bytes: int = 1024, pushed_bytes: int | None = None
) -> list[PeerLink]:
    """Make links between ranks of the simulator, where one array is the memory of all.

    Parameters
    ----------
    ranks : int
        P, from 2 to 8.
    teams : int
        Blocks of the largest grid.
    room_bytes : int
        That a team shows at a time; a multiple of 256.
    pushed_bytes : int, optional
        That a team pushes; likewise, and by default as many.

    Returns
    -------
    list of PeerLink
        Rank 0's first.

    Raises
    ------
    ParallelError
        If there cannot be such links.
    """
    layout = Layout.of(ranks, teams, room_bytes, pushed_bytes or room_bytes)
    memory = zeros((ranks, layout.size), np.uint8, "sim")
    begins = memory.ctypes.data + layout.size * np.arange(ranks)
    return [layout.link(rank, memory[rank], begins, "sim") for rank in range(ranks)]


class Layout(NamedTuple):
    """How a rank's shared memory is divided.

    Attributes
    ----------
    ranks, teams : int
    slots, lines, size : int
        The byte where the slots begin, behind the flags, where the lines begin, and all end.
    """

    ranks: int
    teams: int
    slots: int
    lines: int
    size: int

    @classmethod
    def of(cls, ranks: int, teams: int, room_bytes: int, pushed_bytes: int) -> "Layout":
        """Divide the memory.

        Parameters
        ----------
        ranks, teams, room_bytes, pushed_bytes : int
            As of :func:`simulated_links`.

        Raises
        ------
        ParallelError
            If there cannot be such links.
        """
        if not 2 <= ranks <= MOST_RANKS:
            raise ParallelError(
                f"{ranks} ranks cannot be joined as peers.", f"Join 2 to {MOST_RANKS} of one host."
            )
        for each in (room_bytes, pushed_bytes):
            if teams < 1 or each < _ALIGNMENT or each % _ALIGNMENT:
                raise ParallelError(
                    f"{teams} teams with {each} bytes each cannot be had.",
                    f"Take at least one team, and bytes in multiples of {_ALIGNMENT}.",
                )
        slots = -(-teams * ranks * 4 // _ALIGNMENT) * _ALIGNMENT
        lines = slots + 2 * teams * room_bytes
        # Twice the bytes, for each sender.
        return cls(ranks, teams, slots, lines, lines + 2 * teams * ranks * 2 * pushed_bytes)

    def link(self, rank: int, memory: Any, begins: Sequence[int], device: str) -> PeerLink:
        """Make a rank's link.

        Parameters
        ----------
        rank : int
        memory : uint8 [size]
            Its own, of CuPy or of the simulated device; zeros.
        begins : sequence of P int
            Where each rank's memory is, as this rank sees it.
        device : {"cuda", "sim"}
            Where that is.
        """
        place = functools.partial(to_device, device=device)
        flags = memory[: 4 * self.teams * self.ranks].view(np.int32)
        starts = np.array([[0], [self.slots], [self.lines]])
        return PeerLink(
            rank,
            self.ranks,
            flags.reshape(self.teams, self.ranks),
            memory[self.slots : self.lines],
            memory[self.lines :].view(np.uint64),
            place(np.asarray(begins, np.int64) + starts),
            place(np.zeros(self.teams, np.int32)),
            place(np.zeros(self.teams, np.uint32)),
        )
