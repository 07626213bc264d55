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

from numba import cuda, int32, int64, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_THREADS,
    Ending,
    Tile,
    cornering,
    describing,
    first_place,
    share,
)
from llm_numba.kernels.gemm_hopper_specialised import taking
from llm_numba.kernels.gemm_hopper_stored import BOX_COLUMNS, ROOM, rooms_of
from llm_numba.kernels.unrolled import unrolled

_EIGHTS = BOX_COLUMNS // 8


def _putting(tile: Tile) -> Any:
    """Make what stores a box of the sums that wait."""
    BEFORE = rooms_of(tile) - 1  # stores that may be under way when a room is filled
    ROOMS, ROOMS_BEGIN = rooms_of(tile), tile.stages * tile.stage

    @cuda.jit(device=True)
    def put_eight(i, operands):
        """Put what a thread has of eight columns of a box into its room."""
        tiles, kept, box, room = operands
        lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
        for h in range(2):
            r = 16 * warp + lane // 4 + 8 * h
            place = room + r * BOX_COLUMNS + (i ^ r % 8) * 8 + lane % 4 * 2
            ptx.store_rounded(tiles, place, kept[2 * (_EIGHTS * box + i) + h])

    put_all = unrolled(_EIGHTS, put_eight)

    @cuda.jit(device=True)
    def put(tiles, kept, box, c_map, row, column):
        """Store a box of 64 columns, of this thread's warpgroup."""
        number, leads = cuda.threadIdx.x // GROUP_THREADS, cuda.threadIdx.x % GROUP_THREADS == 0
        room = first_place(tiles) + ROOMS_BEGIN + ((number - 1) * ROOMS + box % ROOMS) * ROOM
        if leads:
            ptx.bulk_wait(BEFORE)
        ptx.barrier_sync(number, GROUP_THREADS)
        put_all(0, (tiles, kept, box, room))
        ptx.fence_async()
        ptx.barrier_sync(number, GROUP_THREADS)
        if leads:
            ptx.tma_store_2d(tiles, room, c_map, column + box * BOX_COLUMNS, row)
            ptx.bulk_commit()

    return put


def overlapping(storage: str, tile: Tile, note: Any, blocks: int = 1) -> Any:
    """Make what each consumer does, in each block of a cluster."""
    BLOCKS, BOXES, KEPT = blocks, tile.columns // BOX_COLUMNS, tile.columns // 4
    put = _putting(tile)
    corner_of, operands_of = cornering(tile, OVERLAPPED, blocks), describing(tile)
    take, leave = taking(tile, note, blocks)

    @cuda.jit(device=True)
    def begin_with_box(box, operands):
        """Begin a slab of a tile, and store a box of the tile before."""
        described, full, free, acc, kept, count, slabs, c_map, row, column = operands
        if box < slabs:
            take(described, full, free, acc, count + box, box > 0)
        if row >= 0:
            put(described[0], kept, box, c_map, row, column)

    begin_tile = unrolled(BOXES, begin_with_box)

    @cuda.jit(device=True)
    def keep(i, operands):
        """Round two neighbours."""
        tiles, acc, kept = operands
        kept[i] = ptx.round_pair(tiles, acc[2 * i], acc[2 * i + 1])

    keep_all = unrolled(KEPT, keep)

    @cuda.jit(device=True)
    def consume(tiles, full, free, acc, slabs, down, across, together, c, c_map, bias, beside):
        """Multiply all slabs of all tiles of this block, and store each during the next one."""
        kept = cuda.local.array(KEPT, uint32)
        described, count = operands_of(tiles), int32(0)
        row, column = int64(-1), int64(0)
        tile, turns, step = cuda.blockIdx.x // BLOCKS, down * across, cuda.gridDim.x // BLOCKS
        while tile < turns:
            begin_tile(0, (described, full, free, acc, kept, count, slabs, c_map, row, column))
            row, column = corner_of(tile, down, across, together)
            row += share()
            for slab in range(BOXES, slabs):
                take(described, full, free, acc, count + slab, True)
            count += slabs
            leave(free, count)
            keep_all(0, (tiles, acc, kept))
            tile += step
        begin_tile(0, (described, full, free, acc, kept, count, 0, c_map, row, column))
        if cuda.threadIdx.x % GROUP_THREADS == 0:
            ptx.bulk_wait(0)

    return consume


OVERLAPPED = Ending(overlapping, overlaps=True)
