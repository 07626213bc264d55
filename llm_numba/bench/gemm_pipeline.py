"""What producer and consumers of the Hopper kernel do when: by the SM's own clock.

The kernel is compiled once more, with a function that notes the clock's cycles at each slab::

    producer    WANTS_PLACE  waits  HAS_PLACE  copies  ASKED  ...
    consumer    WANTS_SLAB  waits  HAS_SLAB  multiplies  MULTIPLIED  ...
                at the end of a tile: multiplies  SUMMED  stores  STORED_TILE

Only the first block notes, and in it one thread of each warpgroup. All of a block run on one SM,
whose count of cycles they share. A batch of products is begun, and what is waited for is the batch
before it: so a consumer *multiplies* from the arrival of a slab until the slab before is done.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from llm_numba.bench.gemm_points import Product
from llm_numba.bench.gpu_timing import GPUTimer
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.errors import DeviceError
from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper import HOPPER, LADDER, LARGE
from llm_numba.kernels.gemm_hopper_pieces import (
    ASKED,
    GROUP_THREADS,
    HAS_PLACE,
    HAS_SLAB,
    MULTIPLIED,
    SLAB,
    STORED_TILE,
    SUMMED,
    WANTS_PLACE,
    WANTS_SLAB,
)
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE
from llm_numba.runtime import is_architecture, launch_all, to_host, zeros

STEP = "stored"
ROLES = ("producer", "consumer 1", "consumer 2")
_EVENTS = 1 + STORED_TILE
_RUNS = 5
_AROUND = 5  # slabs on each side of the change of tiles that is shown


class Span(NamedTuple):
    """What a role did for a while.

    Attributes
    ----------
    role : str
        Of :data:`ROLES`.
    what : str
        ``"waits"``, ``"copies"``, ``"multiplies"`` or ``"stores"``.
    slab : int
        Counted over all tiles of the block.
    since, until : int
        In cycles.
    """

    role: str
    what: str
    slab: int
    since: int
    until: int


def noted_kernel(storage: str, notes: Any, count: int) -> Any:
    """Make the kernel that notes.

    Parameters
    ----------
    storage : str
    notes : int64 [3, 8, count]
        On the device, by ``__cuda_array_interface__``. Its address becomes part of the kernel,
        which so takes no other arguments.
    count : int
        Slabs that there is room for.
    """

    @cuda.jit(device=True)
    def note(event, slab):
        """Write down when a warpgroup meets an event of a slab."""
        if cuda.blockIdx.x == 0 and cuda.threadIdx.x % GROUP_THREADS == 0 and slab < count:
            notes[cuda.threadIdx.x // GROUP_THREADS, event, slab] = ptx.cycles()

    return specialised(storage, LARGE, BY_ENGINE, note)


def measure(product: Product, timer: GPUTimer, pictures: dict[str, Any]) -> Iterator[Result]:
    """Run the kernel that notes, and the same kernel without.

    Parameters
    ----------
    product : Product
        Whose tiles are at least two for the first block.
    timer : GPUTimer
    pictures : dict
        Takes under ``"pipeline"`` what happened around a change of tiles.

    Yields
    ------
    Result
        For each role, which share of the time it did what; and by how much noting slows all.

    Raises
    ------
    DeviceError
        If the GPU is of another architecture.
    """
    operands = product.operands(0, "cuda")
    if not is_architecture(operands["x"], HOPPER[:2]):
        raise DeviceError(
            "Only the kernels for compute capability 9.0 have producers and consumers.",
            "Run this on an H100 or H200.",
        )
    (plain,) = LADDER.step(STEP).plan(**operands)
    slabs = math.ceil(product.K / SLAB)
    tiles = math.ceil(product.M / LARGE.rows) * math.ceil(product.N / LARGE.columns)
    count = math.ceil(tiles / plain.grid[0]) * slabs + 1
    notes = zeros((len(ROLES), _EVENTS, count), np.int64, "cuda")
    # This interface alone, for others may say that what is compiled in is not to be written.
    memory = SimpleNamespace(__cuda_array_interface__=notes.__cuda_array_interface__)
    noted = plain._replace(kernel=noted_kernel(product.dtype, memory, count))
    runs = []
    for _ in range(_RUNS):
        launch_all([noted])
        runs.append(spans(to_host(notes)))
    shape = {"M": product.M, "N": product.N, "K": product.K, "dtype": product.dtype}
    shape |= {"part": product.part, "step": STEP}
    pictures["pipeline"] = shape | {"slabs": slabs, "spans": around_a_change(runs[-1], slabs)}
    for role in ROLES:
        shares = [shares_of(run, role) for run in runs]
        for what in shares[0]:
            told = summarize([100 * share[what] for share in shares], "%")
            yield Result(f"pipeline/{role}/{what}", f"{role}: {what}", told, shape)
    times = [timer.time([lambda each=each: launch_all([each])]) for each in (plain, noted)]
    slower = [100 * (seconds / times[0].median - 1) for seconds in times[1].seconds]
    yield Result("pipeline/slower", "more time with notes", summarize(slower, "%"), shape)


def spans(notes: np.ndarray) -> list[Span]:
    """Make spans of events, in cycles since the first.

    Parameters
    ----------
    notes : int64 [3, 8, slabs]
        0 where nothing was noted.
    """
    found = []
    for role, events in zip(ROLES, notes, strict=True):
        if role == ROLES[0]:
            parts = [("waits", WANTS_PLACE, HAS_PLACE), ("copies", HAS_PLACE, ASKED)]
        else:
            parts = [
                ("waits", WANTS_SLAB, HAS_SLAB),
                ("multiplies", HAS_SLAB, MULTIPLIED),
                ("stores", SUMMED, STORED_TILE),
            ]
            for slab in np.flatnonzero(events[SUMMED]):
                # The last products of a tile: nothing is begun behind them.
                ended = events[SUMMED, slab]
                begun = events[MULTIPLIED][events[MULTIPLIED] <= ended].max()
                found.append(Span(role, "multiplies", int(slab) - 1, int(begun), int(ended)))
        for what, begin, end in parts:
            for slab in np.flatnonzero(events[end]):
                times = int(events[begin, slab]), int(events[end, slab])
                found.append(Span(role, what, int(slab), *times))
    first = min(each.since for each in found)
    shifted = [each._replace(since=each.since - first, until=each.until - first) for each in found]
    return sorted(shifted, key=lambda each: (ROLES.index(each.role), each.since))


def shares_of(found: list[Span], role: str) -> dict[str, float]:
    """Return which share of the block's time a role did what.

    Parameters
    ----------
    found : list of Span
    role : str
    """
    whole = max(each.until for each in found)
    shares: dict[str, float] = {}
    for each in found:
        if each.role == role:
            shares[each.what] = shares.get(each.what, 0.0) + (each.until - each.since) / whole
    return shares


def around_a_change(found: list[Span], slabs: int) -> list[Span]:
    """Return what happened around the end of the first tile, in cycles from the first of it.

    Parameters
    ----------
    found : list of Span
    slabs : int
        Of a tile.
    """
    multiplied = [each for each in found if each.role != ROLES[0] and each.what == "multiplies"]
    shown = [each for each in multiplied if abs(each.slab - slabs) <= _AROUND]
    begin, end = min(each.since for each in shown), max(each.until for each in shown)
    return [
        each._replace(since=max(each.since, begin) - begin, until=min(each.until, end) - begin)
        for each in found
        if each.until > begin and each.since < end
    ]
