"""The end of a tile while the next one is multiplied: sums wait, rounded, in half the registers.

As long as a consumer stores, the registers that it stores from cannot take new sums, and its tensor
cores stand still. But the 128 sums of a thread are 64 registers once they are rounded and packed in
pairs, and there is room for both::

    slabs of the next tile        0            1            2            3           4 ...
    tensor cores       ... | round | products  | products   | products   | products
    threads                        | store 0   | store 1    | store 2    | store 3

Only rounding keeps the tensor cores waiting, 64 instructions of each thread. Then come the first
slabs of the next tile, and behind each of them goes a box of 64 columns through shared memory to
the copy engine, as in :mod:`~llm_numba.kernels.gemm_hopper_stored`. A slab lies between two boxes,
so nobody waits for a room either.

If a product has fewer slabs than a tile has boxes, the rest are stored one behind the other.
"""

from typing import Any

from numba import cuda, float32, int32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    AS_THEY_ARE,
    GROUP_THREADS,
    STORED_TILE,
    Ending,
    Finishing,
    Tile,
    cornering,
    first_place,
    place_of_thread,
    share,
)
from llm_numba.kernels.gemm_hopper_specialised import taking
from llm_numba.kernels.gemm_hopper_stored import BOX_COLUMNS, ROOM, ROOMS, await_room, send
from llm_numba.kernels.unrolled import unrolled

_EIGHTS = BOX_COLUMNS // 8


def _putting(tile: Tile) -> Any:
    """Make what stores a box of the sums that wait."""
    ROOMS_BEGIN = tile.stages * tile.stage

    @cuda.jit(device=True, forceinline=True)
    def put_sixteen(i, operands):
        """Put a warp's sixteen columns of a box into its room: four matrices of 8 x 8."""
        tiles, kept, box, room = operands
        lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
        row, eight = lane % 16, 2 * i + lane // 16
        place = room + (16 * warp + row) * BOX_COLUMNS + (eight ^ row % 8) * 8
        k = 2 * _EIGHTS * box + 4 * i
        ptx.stmatrix_x4(tiles, place, (kept[k], kept[k + 1], kept[k + 2], kept[k + 3]))

    put_all = unrolled(_EIGHTS // 2, put_sixteen)

    @cuda.jit(device=True, forceinline=True)
    def put(tiles, kept, box, c_map, row, column):
        """Store a box of 64 columns, of this thread's warpgroup."""
        number = cuda.threadIdx.x // GROUP_THREADS
        room = first_place(tiles) + ROOMS_BEGIN + ((number - 1) * ROOMS + box % ROOMS) * ROOM
        await_room(number, box)
        put_all(0, (tiles, kept, box, room))
        send(tiles, room, c_map, row, column + box * BOX_COLUMNS, number)

    return put


def _putting_rest(columns: int) -> Any:
    """Make what stores the last columns of a tile if they are no whole box: threads do it."""
    BEGINS = columns // BOX_COLUMNS * BOX_COLUMNS
    if columns == BEGINS:
        return _nothing_left

    @cuda.jit(device=True, forceinline=True)
    def put_eight(i, operands):
        """Store what a thread has of eight columns, where C is."""
        kept, c, row, column = operands
        column += BEGINS + 8 * i
        for h in range(2):
            if row + 8 * h < c.shape[0] and column < c.shape[1]:
                place = (row + 8 * h) * c.shape[1] + column
                ptx.store_rounded(c, place, kept[BEGINS // 4 + 2 * i + h])

    put_all = unrolled((columns - BEGINS) // 8, put_eight)

    @cuda.jit(device=True, forceinline=True)
    def put_rest(kept, c, row, column):
        """Store the last columns, of this thread's warpgroup."""
        here = place_of_thread(row, column)
        put_all(0, (kept, c, here[0], here[1]))

    return put_rest


@cuda.jit(device=True)
def _nothing_left(kept, c, row, column):
    """Store nothing: a tile is whole boxes."""


def _keeping(columns: int, finishing: Finishing) -> Any:
    """Make what finishes all sums of a tile, and rounds them in pairs."""
    EIGHTS, NUMBERS, bring, pair = finishing

    @cuda.jit(device=True, forceinline=True)
    def keep_eight(i, operands):
        """Round what a thread has of eight columns: two of each of two rows."""
        tiles, acc, kept, read, row, column, c, bias, beside = operands
        if i % EIGHTS == 0:
            here = place_of_thread(row, column + 8 * i)
            bring(read, i, here[0], here[1], c, bias, beside)
        for h in range(2):
            low, high = pair(acc, i, h, read)
            kept[2 * i + h] = ptx.round_pair(tiles, low, high)

    keep_all = unrolled(columns // 8, keep_eight)

    @cuda.jit(device=True, forceinline=True)
    def keep(tiles, acc, kept, row, column, c, bias, beside):
        """Keep the share of this thread's warpgroup, which begins there."""
        read = cuda.local.array(NUMBERS, float32)
        keep_all(0, (tiles, acc, kept, read, row, column, c, bias, beside))

    return keep


def overlapping(finishing: Finishing = AS_THEY_ARE, *, gated: bool = False) -> Ending:
    """Make the ending that stores a tile while the next is multiplied.

    Parameters
    ----------
    finishing : Finishing
        What becomes of the sums before they are rounded.
    gated : bool
        As of :class:`~llm_numba.kernels.gemm_hopper_pieces.Ending`.
    """

    def make(storage: str, tile: Tile, note: Any, blocks: int = 1) -> Any:
        return _overlapping(tile, ending, finishing, note, blocks)

    ending = Ending(make, gated, overlaps=True)
    return ending


def _overlapping(tile: Tile, ending: Ending, finishing: Finishing, note: Any, blocks: int) -> Any:
    """Make what each consumer does, in each block of a cluster."""
    BLOCKS, WIDTH = blocks, ending.columns(tile)
    BOXES, KEPT = WIDTH // BOX_COLUMNS, WIDTH // 4
    put, keep = _putting(tile), _keeping(WIDTH, finishing)
    put_rest = _putting_rest(WIDTH)
    corner_of, (take, leave) = cornering(tile, ending, blocks), taking(tile, note, blocks)

    @cuda.jit(device=True)
    def begin_with_box(box, operands):
        """Begin a slab of a tile, and store a box of the tile before."""
        tiles, full, free, acc, kept, count, slabs, c, c_map, row, column = operands
        if box < slabs:
            take(tiles, full, free, acc, count + box, box > 0)
        if row >= 0:
            put(tiles, kept, box, c_map, row, column)
            if box == BOXES - 1:
                put_rest(kept, c, row, column)

    begin_tile = unrolled(BOXES, begin_with_box)

    @cuda.jit(device=True)
    def consume(tiles, full, free, acc, slabs, down, across, together, c, c_map, bias, beside):
        """Multiply all slabs of all tiles of this block, and store each during the next one."""
        kept = cuda.local.array(KEPT, uint32)
        count = int32(0)
        row, column = int64(-1), int64(0)
        tile, turns, step = cuda.blockIdx.x // BLOCKS, down * across, cuda.gridDim.x // BLOCKS
        while tile < turns:
            begin_tile(0, (tiles, full, free, acc, kept, count, slabs, c, c_map, row, column))
            row, column = corner_of(tile, down, across, together)
            row += share()
            for slab in range(BOXES, slabs):
                take(tiles, full, free, acc, count + slab, True)
            count += slabs
            leave(free, count)
            keep(tiles, acc, kept, row, column, c, bias, beside)
            note(STORED_TILE, count)
            tile += step
        begin_tile(0, (tiles, full, free, acc, kept, count, 0, c, c_map, row, column))
        if cuda.threadIdx.x % GROUP_THREADS == 0:
            ptx.bulk_wait(0)

    return consume


OVERLAPPED = overlapping()
