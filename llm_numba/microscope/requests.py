"""What one warp's request asks of the banks, and of the sectors: the numbers behind the picture."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llm_numba.simulator import LineReport, Report, Request
from llm_numba.simulator.costs import BANKS, SECTOR, WORD, ideal_sectors, lane_groups, wavefronts
from llm_numba.simulator.lanes import WARP


@dataclass(frozen=True)
class Witness:
    """A request and the line that made it.

    Attributes
    ----------
    line : LineReport
    request : Request
    ideal : int
        Sectors or wavefronts that the same bytes would have taken side by side.
    """

    line: LineReport
    request: Request
    ideal: int

    @property
    def wasted(self) -> int:
        """Sectors or wavefronts above the ideal."""
        return self.request.cost - self.ideal


@dataclass(frozen=True)
class Sector:
    """A sector that a request moves.

    Attributes
    ----------
    lanes : tuple of int
        Those that want bytes of it.
    used : int
        Bytes that they want, of 32.
    """

    lanes: tuple[int, ...]
    used: int


def worst_request(reports: Iterable[Report], space: str) -> Witness | None:
    """Return the request that wastes most, of equals the costliest, of equals the last.

    Parameters
    ----------
    reports : iterable of Report
        Of one step.
    space : {"global", "shared"}

    Returns
    -------
    Witness or None
        None if no line touched that memory.
    """
    found = []
    for report in reports:
        for line in report.lines:
            request = line.worst_global if space == "global" else line.worst_shared
            if request is not None:
                found.append(Witness(line, request, _ideal(request)))
    if not found:
        return None
    return max(
        reversed(found), key=lambda each: (each.request.cost - each.ideal, each.request.cost)
    )


def bank_words(request: Request) -> np.ndarray:
    """Count what each lane meets in each bank.

    Parameters
    ----------
    request : Request
        On shared memory.

    Returns
    -------
    int [32 lanes, 32 banks]
        0 where the lane does not touch the bank; else the distinct words that lanes served
        together want of this bank: 1 is free of conflicts.
    """
    words_each = max(request.size // WORD, 1)
    met = np.zeros((WARP, BANKS), int)
    for lanes in served_together(request):
        touches = [
            (lane, request.addresses[lane] // WORD + word)
            for lane in lanes
            if request.addresses[lane] is not None
            for word in range(words_each)
        ]
        wanted = np.bincount([word % BANKS for word in {word for _, word in touches}],
                             minlength=BANKS)  # fmt: skip
        for lane, word in touches:
            met[lane, word % BANKS] = wanted[word % BANKS]
    return met


def served_together(request: Request) -> list[range]:
    """Return the lanes that share passes over the banks: all, or parts of the warp."""
    return lane_groups(_addresses(request), request.size)


def touched_sectors(request: Request) -> list[Sector]:
    """List the sectors that a request on global memory moves, by address.

    Parameters
    ----------
    request : Request
    """
    lanes: dict[int, list[int]] = {}
    used: dict[int, set[int]] = {}
    for lane, address in enumerate(request.addresses):
        if address is not None:
            lanes.setdefault(address // SECTOR, []).append(lane)
            used.setdefault(address // SECTOR, set()).update(range(address, address + request.size))
    return [Sector(tuple(lanes[index]), len(used[index])) for index in sorted(lanes)]


def _addresses(request: Request) -> np.ndarray:
    return np.array([-1 if each is None else each for each in request.addresses])


def _ideal(request: Request) -> int:
    addresses = _addresses(request)[None]
    if request.space == "global":
        return int(ideal_sectors(addresses, request.size)[0])
    return int(wavefronts(addresses, request.size)[2][0])
