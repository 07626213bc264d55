"""What a warp's request to memory costs.

Global memory
    The 32 addresses of a request fall into 32-byte sectors; each distinct sector is moved once.
Shared memory
    32 banks, each 4 bytes wide and able to give one word a pass. Lanes that want the same word share
    it (broadcast); different words of one bank take a pass each. A request of 8 bytes a lane goes by
    half-warps, one of 16 bytes by quarter-warps, each of which is resolved by itself.

Sources: CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and after; Nsight
Compute's documentation of the L1TEX cache; both checked against the hardware's counters.
"""

from dataclasses import dataclass

import numpy as np

from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.report import Request

SECTOR = 32
BANKS = 32
WORD = 4
_NOBODY = np.int64(-1)


@dataclass
class LineCost:
    """The running sums of one source line."""

    global_requests: int = 0
    global_sectors: int = 0
    ideal_sectors: int = 0
    shared_requests: int = 0
    shared_wavefronts: int = 0
    ideal_wavefronts: int = 0
    max_bank_ways: int = 0
    divergent: int = 0
    worst_global: Request | None = None
    worst_shared: Request | None = None


def count_distinct(values: np.ndarray) -> np.ndarray:
    """Count the distinct entries of each row that are not negative."""
    ordered = np.sort(values, axis=1)
    new = np.ones(ordered.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    return np.count_nonzero(new & (ordered >= 0), axis=1)


def sectors(addresses: np.ndarray, size: int) -> np.ndarray:
    """Return the sectors of each request.

    Parameters
    ----------
    addresses : int64 [requests, 32]
        Byte address of each lane, negative where it takes no part.
    size : int
        Bytes a lane, a power of two of at most 32, to which the addresses are aligned.

    Returns
    -------
    int [requests]
    """
    return count_distinct(np.where(addresses < 0, _NOBODY, addresses // SECTOR))


def ideal_sectors(addresses: np.ndarray, size: int) -> np.ndarray:
    """Return the sectors that the distinct elements of each request would fill side by side."""
    return -(-count_distinct(addresses) * size // SECTOR)


def wavefronts(addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the passes that each shared request takes, and its worst bank's distinct words.

    Parameters
    ----------
    addresses : int64 [requests, 32]
        Byte address in the block's shared memory, negative where the lane takes no part.
    size : int
        Bytes a lane: 1, 2, 4, 8 or 16.

    Returns
    -------
    passes, ways : int [requests]
    """
    requests = len(addresses)
    words_each = max(size // WORD, 1)
    groups = words_each  # of lanes: a whole warp, two halves or four quarters
    lanes = WARP // groups
    first = np.where(addresses < 0, _NOBODY, addresses // WORD).reshape(requests * groups, lanes)
    words = first[:, :, None] + np.arange(words_each)
    words[first < 0] = _NOBODY
    ways = _worst_bank(words.reshape(requests * groups, lanes * words_each))
    ways = ways.reshape(requests, groups)
    return ways.sum(axis=1), ways.max(axis=1)


def _worst_bank(words: np.ndarray) -> np.ndarray:
    """Return, for each row of word addresses, the most distinct words in one bank."""
    ordered = np.sort(words, axis=1)
    new = ordered >= 0
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    row = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
    counts = np.bincount((row * BANKS + ordered % BANKS)[new], minlength=len(words) * BANKS)
    return counts.reshape(len(words), BANKS).max(axis=1)


def ideal_wavefronts(addresses: np.ndarray, size: int) -> np.ndarray:
    """Return the passes that each shared request would take without conflicts."""
    distinct = count_distinct(addresses)
    return np.maximum(-(-distinct * size // (BANKS * WORD)), (distinct > 0).astype(int))


def add_access(cost: LineCost, lanes: Lanes, space: str, kind: str, offset: object, size: int) -> None:
    """Add a group's access, one request a warp, to the sums of its line."""
    addresses = lanes.by_warp(offset, _NOBODY)
    if space == "shared":
        passes, ways = wavefronts(addresses, size)
        cost.shared_requests += len(addresses)
        cost.shared_wavefronts += int(passes.sum())
        cost.ideal_wavefronts += int(ideal_wavefronts(addresses, size).sum())
        worst = int(passes.argmax())
        cost.max_bank_ways = max(cost.max_bank_ways, int(ways.max()))
        if cost.worst_shared is None or passes[worst] > cost.worst_shared.cost:
            cost.worst_shared = _request(
                space, kind, addresses[worst], size, passes[worst], ways[worst]
            )
        return
    moved = sectors(addresses, size)
    cost.global_requests += len(addresses)
    cost.global_sectors += int(moved.sum())
    cost.ideal_sectors += int(ideal_sectors(addresses, size).sum())
    worst = int(moved.argmax())
    if cost.worst_global is None or moved[worst] > cost.worst_global.cost:
        cost.worst_global = _request(space, kind, addresses[worst], size, moved[worst], 1)


def _request(
    space: str, kind: str, addresses: np.ndarray, size: int, cost: int, ways: int
) -> Request:
    named = tuple(int(address) if address >= 0 else None for address in addresses)
    return Request(space, kind, named, size, int(cost), int(ways))
