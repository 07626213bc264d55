"""What all steps of the Hopper ladder are made of: the tile, its place, a slab's products, the end.

A *slab* is what a block multiplies at a time: 64 numbers along K, of the tile's rows of A and of
its columns, which are rows of B. In shared memory a row of a slab is 128 bytes, swizzled as
:mod:`~llm_numba.kernels.ptx.bulk` draws it, and a *stage* is the room for one slab::

    stage  | rows of A, 64 numbers each | rows of B |      a warpgroup multiplies 64 rows of A
           0                            B_BEGINS    STAGE  by all rows of B, 16 numbers at a time
"""

from typing import Any, NamedTuple

from numba import cuda, float32, uint64
from numba.cuda import types

from llm_numba.kernels import ptx
from llm_numba.kernels.unrolled import unrolled

SLAB = 64  # numbers along K: 128 bytes
GROUP_THREADS, GROUP_ROWS = 128, 64  # of a warpgroup
GROUP_WARPS = GROUP_THREADS // 32
# Registers of a thread, in multiples of 8, where a producer's have moved to two consumers.
OF_PRODUCER, OF_CONSUMER = 40, 232
DEPTH = 16  # numbers along K of one instruction
# A slab is counted in numbers of 2 bytes, of which float32 has two.
STORED = {"float16": types.float16, "bfloat16": types.uint16, "tf32": types.uint16}
# Dynamic shared memory begins anywhere; a tile begins at a multiple of 1024 bytes.
ATOM = 1024


class Tile(NamedTuple):
    """What a block multiplies.

    Attributes
    ----------
    rows, columns : int
        Of C: 64 rows for each warpgroup that multiplies, and columns in eights up to 256.
    stages : int
        Slabs that are in shared memory or on their way.
    """

    rows: int
    columns: int
    stages: int

    @property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        return self.rows // GROUP_ROWS

    @property
    def stage(self) -> int:
        """Numbers of a stage."""
        return (self.rows + self.columns) * SLAB

    @property
    def stage_bytes(self) -> int:
        """Bytes of a stage."""
        return 2 * self.stage

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.stages * self.stage_bytes + ATOM


class Behind(NamedTuple):
    """What a producer brings behind the slabs of a tile.

    Attributes
    ----------
    slabs : int
        Stages that it takes.
    bring : device function
        ``bring(tiles, full, free, count, beside, row, column)`` brings it, for the tile that begins
        at a row and a column of C, by the map of what lies beside C, as slabs from `count` on.
    """

    slabs: int
    bring: Any


class Ending(NamedTuple):
    """How a warpgroup's sums become its share of C.

    Attributes
    ----------
    make : callable
        ``make(storage, tile)`` makes two device functions: ``store(acc, c, row, column, how, bias,
        beside)`` stores the share that begins at a row and a column of C, and ``finish()`` waits
        for what it began, before a block ends.
    gated : bool
        Whether half of the tile's columns come of the first half of B's rows and half of the
        second, and two sums make one number of C.
    overlaps : bool
        Whether a tile is stored while the next is multiplied. Then ``make(storage, tile, note,
        blocks)`` makes all that a consumer does, in each block of a cluster.
    foreseeing : callable, optional
        ``foreseeing(tile)`` makes ``foresee(row, column, c, beside)``, called when a tile begins.
    behind : callable, optional
        ``behind(tile)`` is a :class:`Behind`. Then `store` is given, in place of what lies beside
        C, the barriers and the number of the first of these slabs: ``(full, free, count)``.
    """

    make: Any
    gated: bool = False
    overlaps: bool = False
    foreseeing: Any = None
    behind: Any = None

    def columns(self, tile: Tile) -> int:
        """Return how many columns of C a tile makes."""
        return tile.columns // 2 if self.gated else tile.columns


# What a kernel tells a `note(event, count)` of, with the running number of the slab in its block:
# the producer's only busy thread, and then all threads of a consumer.
WANTS_PLACE, HAS_PLACE, ASKED = 0, 1, 2
WANTS_SLAB, HAS_SLAB, MULTIPLIED, SUMMED, STORED_TILE = 3, 4, 5, 6, 7


@cuda.jit(device=True)
def silent(event, count):
    """Note nothing."""


@cuda.jit(device=True)
def first_place(tiles):
    """Return the first number of shared memory at which a tile may begin."""
    return -int(ptx.shared_address(tiles, 0)) % ATOM // 2


@cuda.jit(device=True)
def place_of(tile, down, across, together):
    """Return row and column of a tile, where so many rows of tiles are gone through together.

    ::

        together = 1          together = 2
        0 1 2 3               0 2 4 6
        4 5 6 7               1 3 5 7
    """
    begun = ptx.quotient(tile, together * across) * together
    rows = min(down - begun, together)
    left = tile - begun * across
    column = ptx.quotient(left, rows)
    return begun + left - column * rows, column


def cornering(tile: Tile, ending: Ending, blocks: int = 1) -> Any:
    """Make what finds the first row and column of C of this block's tile.

    In a cluster the tiles of its blocks lie below each other; `down` and `across` count clusters.
    """
    ROWS, WIDTH, BLOCKS = tile.rows, ending.columns(tile), blocks

    @cuda.jit(device=True)
    def corner_of(tile, down, across, together):
        """Return row and column of C."""
        row, column = place_of(tile, down, across, together)
        return (row * BLOCKS + cuda.blockIdx.x % BLOCKS) * ROWS, column * WIDTH

    return corner_of


@cuda.jit(device=True)
def share():
    """Return at which of the tile's rows the share of this thread's warpgroup begins."""
    return (cuda.threadIdx.x // GROUP_THREADS - 1) * GROUP_ROWS


def describing(tile: Tile) -> Any:
    """Make what describes a warpgroup's operands in a stage."""
    STAGE, B_BEGINS = tile.stage, tile.rows * SLAB

    @cuda.jit(device=True)
    def describe(tiles, stage):
        """Return the descriptors of this warpgroup's rows of A, and of all of B."""
        at = first_place(tiles) + stage * STAGE
        a = ptx.matrix_descriptor(tiles, at + share() * SLAB)
        return a, ptx.matrix_descriptor(tiles, at + B_BEGINS)

    return describe


def staging(tile: Tile) -> Any:
    """Make what finds the stage of a slab, and how often it has been used before."""
    STAGES = tile.stages

    @cuda.jit(device=True)
    def stage_of(count):
        """Return stage and turn of the slab with a running number."""
        return count % STAGES, count // STAGES

    return stage_of


def freeing(tile: Tile, blocks: int = 1) -> Any:
    """Make what tells the producers of all blocks of a cluster that a warp has read a stage."""
    stage_of, BLOCKS = staging(tile), blocks

    @cuda.jit(device=True)
    def set_free(free, count):
        """Arrive, one thread of each warp."""
        if cuda.threadIdx.x % 32 == 0:
            stage, _ = stage_of(count)
            ptx.mbarrier_arrive(free, stage)

    @cuda.jit(device=True)
    def set_free_everywhere(free, count):
        """Arrive in each block, one thread of each warp."""
        if cuda.threadIdx.x % 32 == 0:
            stage, _ = stage_of(count)
            for block in range(BLOCKS):
                ptx.mbarrier_arrive_at(free, stage, block)

    return set_free if blocks == 1 else set_free_everywhere


@cuda.jit(device=True)
def place_of_thread(first_row, first_column):
    """Return row and column of a thread's first sum, where its warpgroup's share begins there."""
    lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
    return first_row + 16 * warp + lane // 4, first_column + lane % 4 * 2


@cuda.jit(device=True)
def _as_stored(tiles):
    """Take numbers for what they are stored as."""
    return tiles


def multiplying(tile: Tile, storage: str | None = None) -> Any:
    """Make what begins the products of a slab for a warpgroup, and commits them.

    Of the storage only "tf32" must be named: what is there tells the others.
    """
    taken = ptx.tf32 if storage == "tf32" else _as_stored
    COLUMNS, STEPS, IN_BYTES = tile.columns, SLAB // DEPTH, 2 * DEPTH // 16

    @cuda.jit(device=True)
    def multiply(tiles, a, b, acc, accumulate):
        """Begin acc (+)= A [64, 64] B [columns, 64]^T, of the slab that is so described."""
        ptx.wgmma_fence()
        for i in range(STEPS):
            further = uint64(i * IN_BYTES)
            ptx.wgmma(taken(tiles), acc, a + further, b + further, COLUMNS, accumulate or i > 0)
        ptx.wgmma_commit()

    return multiply


class Finishing(NamedTuple):
    """What becomes of a warpgroup's sums before they are stored, some columns after the other.

    Attributes
    ----------
    eights : int
        For how many eight columns is read at a time what finishes their sums.
    numbers : int
        float32 that a thread keeps for its part of them, at least 1.
    bring : device function
        ``bring(kept, i, row, column, c, bias, beside)`` reads them, from the i-th eight columns
        on; of rows and columns from one on, both of the thread's first number.
    pair : device function
        ``pair(acc, i, h, kept)`` makes the two neighbours of C that the thread has in the i-th
        eight columns, in its upper row (h = 0) or in its lower.
    """

    eights: int
    numbers: int
    bring: Any
    pair: Any


@cuda.jit(device=True)
def _bring_nothing(kept, i, row, column, c, bias, beside):
    """Read nothing: sums are stored as they are."""


@cuda.jit(device=True)
def _sums(acc, i, h, kept):
    """Return two sums as they are."""
    return acc[4 * i + 2 * h], acc[4 * i + 2 * h + 1]


AS_THEY_ARE = Finishing(1, 1, _bring_nothing, _sums)


def storing(columns: int, finishing: Finishing = AS_THEY_ARE) -> Any:
    """Make what stores so many columns of a warpgroup, as its fragments lie; nothing outside C."""
    EIGHTS, NUMBERS, bring, pair = finishing

    @cuda.jit(device=True, forceinline=True)
    def store_eight(j, operands):
        """Store what a thread has of eight columns: two of each of two rows."""
        acc, kept, c, row, column, paired, bias, beside = operands
        column += 8 * j
        if j % EIGHTS == 0:
            bring(kept, j, row, column, c, bias, beside)
        for h in range(2):
            low, high = pair(acc, j, h, kept)
            if row + 8 * h < c.shape[0] and column < c.shape[1]:
                if paired:
                    ptx.store_pair(c, (row + 8 * h) * c.shape[1] + column, low, high)
                else:
                    c[row + 8 * h, column] = ptx.from_float(c, low)
                    if column + 1 < c.shape[1]:
                        c[row + 8 * h, column + 1] = ptx.from_float(c, high)

    store_all = unrolled(columns // 8, store_eight)

    @cuda.jit(device=True, forceinline=True)
    def store(acc, c, first_row, first_column, paired, bias, beside):
        """Store the share of this thread's warpgroup, which begins there."""
        kept = cuda.local.array(NUMBERS, float32)
        row, column = place_of_thread(first_row, first_column)
        store_all(0, (acc, kept, c, row, column, paired, bias, beside))

    return store


@cuda.jit(device=True)
def foresee_nothing(row, column, c, beside):
    """Prepare nothing."""


@cuda.jit(device=True)
def nothing():
    """Wait for no store: the threads make them themselves."""


def _by_threads(storage: str, tile: Tile) -> tuple[Any, Any]:
    return storing(tile.columns), nothing


BY_THREADS = Ending(_by_threads)
