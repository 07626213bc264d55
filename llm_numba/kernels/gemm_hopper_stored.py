"""The end of a tile by the copy engine: sums pass through shared memory, and nobody waits for C.

A thread has two neighbours of a row, so a request of a warp stores 16 bytes of each of 8 rows of C:
half of each sector, 64 requests for its share of 64 x 256. Here a consumer puts 64 columns at a
time into shared memory, swizzled as the copy engine wants them, and one thread names the box::

    columns          0 to 63         64 to 127       128 to 191      192 to 255
    room 0           put | begin     .               wait, put | begin
    room 1                           put | begin                     wait, put | begin
    copy engine            | read, write C | read, write C | ...

There are two rooms of 8 KiB for each consumer. Before it fills one, all but the newest store must
have read theirs; before the first of a tile all of them, which had the time of a whole tile for it.
The engine writes whole sectors, leaves out what lies outside C, and goes on while the consumer
multiplies the next tile. The eight rows of a request lie in different banks, for piece j
of row r is at place j xor (r mod 8).

128 threads meet twice for each room, at a barrier of their own: the other consumer is elsewhere.

A tile may have 224 or 160 columns, which are no whole boxes. Then its last box begins 64 columns
before its end, and some columns are stored twice: the same numbers, in any order::

    box 0 | 0 to 63 |           box 1 | 64 to 127 |           box 2 | 96 to 159 |    of 160
"""

from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    AS_THEY_ARE,
    GROUP_ROWS,
    GROUP_THREADS,
    SLAB,
    STORED,
    Ending,
    Finishing,
    Tile,
    first_place,
    place_of_thread,
)
from llm_numba.kernels.unrolled import unrolled

BOX_COLUMNS = SLAB  # 128 bytes, one row of the swizzle
_EIGHTS = BOX_COLUMNS // 8
ROOM, ROOMS = GROUP_ROWS * BOX_COLUMNS, 2
_BEFORE = ROOMS - 1  # stores that may be under way when a room is filled


def boxes_of(columns: int) -> int:
    """Return how many boxes store so many columns."""
    return -(-columns // BOX_COLUMNS)


def staging_bytes(tile: Tile) -> int:
    """Return the shared memory that all rooms take."""
    return 2 * ROOMS * ROOM * tile.groups


@cuda.jit(device=True, forceinline=True)
def await_room(number, box):
    """Meet when the room of a tile's box, of that number, has been read."""
    if cuda.threadIdx.x % GROUP_THREADS == 0:
        if box == 0:
            ptx.bulk_wait(0)
        else:
            ptx.bulk_wait(_BEFORE)
    ptx.barrier_sync(number, GROUP_THREADS)


@cuda.jit(device=True, forceinline=True)
def send(tiles, room, c_map, row, column, number):
    """Begin to store a room, once all have filled it."""
    ptx.fence_async()
    ptx.barrier_sync(number, GROUP_THREADS)
    if cuda.threadIdx.x % GROUP_THREADS == 0:
        ptx.tma_store_2d(tiles, room, c_map, column, row)
        ptx.bulk_commit()


@cuda.jit(device=True)
def await_all_rooms():
    """Wait until the engine has read all rooms: they go with the block."""
    if cuda.threadIdx.x % GROUP_THREADS == 0:
        ptx.bulk_wait(0)


def storing_by_engine(
    storage: str, tile: Tile, columns: int = 0, finishing: Finishing = AS_THEY_ARE
) -> tuple[Any, Any]:
    """Make what stores a consumer's sums through a tensor map of C, and what waits in the end.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
    columns : int
        Of C that a tile makes; by default all of its own.
    finishing : Finishing
    """
    columns = columns or tile.columns
    if columns < BOX_COLUMNS:
        raise ValueError(f"{columns} columns are less than a box of {BOX_COLUMNS}")
    FORM, ROOMS_BEGIN = STORED[storage], tile.stages * tile.stage
    LAST_BOX = columns // 8 - _EIGHTS  # where it begins, in eights
    EIGHTS, NUMBERS, bring, pair = finishing

    @cuda.jit(device=True, forceinline=True)
    def store_eight(n, operands):
        """Put what a thread has of eight columns into a room; begin with it, and end with it."""
        acc, kept, tiles, rooms, c, c_map, row, column, number, bias, beside = operands
        box, e = n // _EIGHTS, n % _EIGHTS
        room, begins = rooms + box % ROOMS * ROOM, min(box * _EIGHTS, LAST_BOX)
        i = begins + e
        if i % EIGHTS == 0:
            here = place_of_thread(row, column + 8 * i)
            bring(kept, i, here[0], here[1], c, bias, beside)
        if e == 0:
            await_room(number, box)
        lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
        for h in range(2):
            r = 16 * warp + lane // 4 + 8 * h
            place = r * BOX_COLUMNS + (e ^ r % 8) * 8 + lane % 4 * 2
            low, high = pair(acc, i, h, kept)
            ptx.store_pair(tiles, room + place, low, high)
        if e == _EIGHTS - 1:
            send(tiles, room, c_map, row, column + 8 * begins, number)

    store_all = unrolled(boxes_of(columns) * _EIGHTS, store_eight)

    @cuda.jit(device=True, forceinline=True)
    def store(acc, c, first_row, first_column, c_map, bias, beside):
        """Store the share of this thread's warpgroup, which begins there."""
        tiles, kept = cuda.shared.array(0, FORM), cuda.local.array(NUMBERS, float32)
        number = cuda.threadIdx.x // GROUP_THREADS
        rooms = first_place(tiles) + ROOMS_BEGIN + (number - 1) * ROOMS * ROOM
        operands = acc, kept, tiles, rooms, c, c_map, first_row, first_column, number, bias, beside
        store_all(0, operands)

    return store, await_all_rooms


BY_ENGINE = Ending(storing_by_engine)
