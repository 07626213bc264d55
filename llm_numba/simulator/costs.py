"""What a warp's request to memory costs.

Global memory
    The 32 addresses of a request fall into 32-byte sectors; each distinct sector is moved once. An
    atomic of several lanes on one element takes its sector once for each of them.
Shared memory
    32 banks, each 4 bytes wide and able to give one word a pass. Lanes that want the same word
    share it (broadcast); different words of one bank take a pass each. A request of 8 bytes a lane
    goes by half-warps, one of 16 bytes by quarter-warps, each of which is resolved by itself. Two
    halves, or two quarters of one half, go together if in them each lane wants the same as its
    neighbour, or each the same as the lane two further on: then half of the lanes ask for nothing
    new.

Sources: CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and after; Nsight
Compute's documentation of the L1TEX cache. What neither says (pairs of lanes, atomics) was found by
asking an H100's counters; ``llm-numba bench counters`` compares both.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from llm_numba.simulator.lanes import WARP, Lanes
from llm_numba.simulator.report import Request

SECTOR = 32
BANKS = 32
WORD = 4
_NOBODY = np.int64(-1)
_PERIOD = BANKS * WORD  # bytes after which banks and sectors repeat


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


def sectors(addresses: np.ndarray) -> np.ndarray:
    """Return the sectors of each load or store.

    Parameters
    ----------
    addresses : int64 [requests, 32]
        Byte address of each lane, negative where it takes no part; aligned to the bytes that the
        lane asks for, so that none needs two sectors.

    Returns
    -------
    int [requests]
    """
    return count_distinct(np.where(addresses < 0, _NOBODY, addresses // SECTOR))


def atomic_sectors(addresses: np.ndarray) -> np.ndarray:
    """Return the sectors of each atomic: each as often as its most wanted element is wanted."""
    row, lane = np.nonzero(addresses >= 0)
    pairs, wanted = np.unique(
        np.stack([row, addresses[row, lane]], axis=1), axis=0, return_counts=True
    )
    row, sector = pairs[:, 0], pairs[:, 1] // SECTOR
    new = np.ones(len(pairs), bool)
    new[1:] = (row[1:] != row[:-1]) | (sector[1:] != sector[:-1])
    starts = np.flatnonzero(new)
    most = np.maximum.reduceat(wanted, starts)
    return np.bincount(row[starts], weights=most, minlength=len(addresses)).astype(np.int64)


def ideal_sectors(addresses: np.ndarray, size: int) -> np.ndarray:
    """Return the sectors that the distinct elements of each request would fill side by side."""
    return -(-count_distinct(addresses) * size // SECTOR)


def wavefronts(addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the passes that each shared request takes, and why.

    Parameters
    ----------
    addresses : int64 [requests, 32]
        Byte address in the block's shared memory, negative where the lane takes no part.
    size : int
        Bytes a lane: 1, 2, 4, 8 or 16.

    Returns
    -------
    passes : int [requests]
    ways : int [requests]
        Most distinct words of one bank in one pass's worth of lanes.
    ideal : int [requests]
        Passes without conflicts.
    """
    words_each = max(size // WORD, 1)
    words = np.where(addresses < 0, _NOBODY, addresses // WORD)
    if words_each == 1:
        ways = _worst_bank(words[:, :, None])
        return ways, ways, (ways > 0).astype(np.int64)
    # What may share a pass if lanes come in pairs: all of a warp, or a half if each asks 16 bytes.
    span = 2 * WARP // words_each
    spans = words.reshape(-1, span)
    paired = _come_in_pairs(spans, 1) | _come_in_pairs(spans, 2)
    wide = np.where(spans[:, :, None] < 0, _NOBODY, spans[:, :, None] + np.arange(words_each))
    whole, first, second = (
        _worst_bank(part) for part in (wide, wide[:, : span // 2], wide[:, span // 2 :])
    )
    passes = np.where(paired, whole, first + second)
    ways = np.where(paired, whole, np.maximum(first, second))
    ideal = np.where(paired, whole > 0, (first > 0).astype(np.int64) + (second > 0))
    by_request = (len(addresses), -1)
    return (
        passes.reshape(by_request).sum(axis=1),
        ways.reshape(by_request).max(axis=1),
        ideal.reshape(by_request).sum(axis=1),
    )


def lane_groups(addresses: np.ndarray, size: int) -> list[range]:
    """Return the lanes of one shared request that share passes.

    Parameters
    ----------
    addresses : int64 [32]
        As for :func:`wavefronts`.
    size : int

    Returns
    -------
    list of range
        The whole warp, its halves or its quarters; they need not be equally long.
    """
    if size <= WORD:
        return [range(WARP)]
    span = 2 * WARP * WORD // size
    groups = []
    for first in range(0, WARP, span):
        lanes = np.where(addresses < 0, _NOBODY, addresses // WORD)[None, first : first + span]
        paired = _come_in_pairs(lanes, 1) | _come_in_pairs(lanes, 2)
        step = span if paired[0] else span // 2
        groups += [range(start, start + step) for start in range(first, first + span, step)]
    return groups


def _come_in_pairs(spans: np.ndarray, distance: int) -> np.ndarray:
    """Tell whether lanes that are some distance apart want the same, as far as they want."""
    partner = spans[:, np.arange(spans.shape[1]) ^ distance]
    return ((spans == partner) | (spans < 0) | (partner < 0)).all(axis=1)


def _worst_bank(words: np.ndarray) -> np.ndarray:
    """Return the most distinct words in one bank, for words [rows, lanes, words a lane]."""
    words = words.reshape(len(words), -1)
    ordered = np.sort(words, axis=1)
    new = ordered >= 0
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    row = np.broadcast_to(np.arange(len(words))[:, None], words.shape)
    counts = np.bincount((row * BANKS + ordered % BANKS)[new], minlength=len(words) * BANKS)
    return counts.reshape(len(words), BANKS).max(axis=1)


@dataclass(frozen=True)
class _Access:
    """What one access of a group costs, all its warps together."""

    requests: int
    cost: int
    ideal: int
    worst: Request


class Accounts:
    """The costs of all lines.

    Loops repeat the same pattern of addresses again and again, only further on. Shifting all
    addresses by a multiple of 128 bytes changes neither sectors nor banks, so what a pattern costs
    is computed once. Patterns are kept by their digests: of large groups they take megabytes.
    """

    def __init__(self) -> None:
        self.lines: dict[int, LineCost] = {}
        self._patterns: dict[tuple[object, ...], _Access] = {}

    def line(self, lanes: Lanes) -> LineCost:
        """Return the sums of the line at which a group stands."""
        return self.lines.setdefault(lanes.at, LineCost())

    def add(self, lanes: Lanes, space: str, kind: str, offset: Any, size: int) -> None:
        """Add a group's access, one request a warp, to the sums of its line."""
        offset = lanes.vector(offset)
        start = offset[0] // _PERIOD * _PERIOD
        pattern = blake2b(offset - start, digest_size=16).digest()
        key = (space, size, kind == "atomic", pattern, lanes.warps.digest)
        access = self._patterns.get(key)
        if access is None:
            access = _measure(lanes.by_warp(offset, _NOBODY), space, kind, size)
            self._patterns[key] = access
        cost, worst = self.line(lanes), access.worst
        if space == "shared":
            cost.shared_requests += access.requests
            cost.shared_wavefronts += access.cost
            cost.ideal_wavefronts += access.ideal
            cost.max_bank_ways = max(cost.max_bank_ways, worst.ways)
            if cost.worst_shared is None or worst.cost > cost.worst_shared.cost:
                cost.worst_shared = worst
            return
        cost.global_requests += access.requests
        cost.global_sectors += access.cost
        cost.ideal_sectors += access.ideal
        if cost.worst_global is None or worst.cost > cost.worst_global.cost:
            cost.worst_global = worst


def _measure(addresses: np.ndarray, space: str, kind: str, size: int) -> _Access:
    if space == "shared":
        costs, ways, ideal = wavefronts(addresses, size)
        worst = int(np.lexsort((ways, costs))[-1])
    else:
        costs = atomic_sectors(addresses) if kind == "atomic" else sectors(addresses)
        ways = np.ones(len(addresses), int)
        ideal = ideal_sectors(addresses, size)
        worst = int(costs.argmax())
    named = tuple(int(address) if address >= 0 else None for address in addresses[worst])
    witness = Request(space, kind, named, size, int(costs[worst]), int(ways[worst]))
    return _Access(len(addresses), int(costs.sum()), int(ideal.sum()), witness)
