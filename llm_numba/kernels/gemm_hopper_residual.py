"""The residual of a Hopper product as the last slabs of its tile: the copy engine brings it.

A thread has two neighbours of a row, so a request of a warp reads 16 bytes of each of 8 rows of the
residual: half of each sector, 64 requests for its share of 64 x 256; and all of them when both
consumers stand at the tile's end. But the producer is far ahead then. So behind the last slab of a
tile it brings the tile's residual, in stages like any slab, 128 columns in each::

    stage       0        1        2        3        0           1           2        3
    producer    slab 61  slab 62  slab 63  columns  columns     slab 0 of   slab 1   slab 2
                                           0 - 127  128 - 255   the next tile
    consumers   multiply ............... | read, free | read, free | multiply

It comes while slabs are multiplied, in whole lines. Its rows are swizzled as those of the rooms
are, so a thread reads what belongs to its sums without a bank conflict, and all of a stage before
it frees it. The next tile begins with two stages that are full.
"""

from typing import Any

from numba import cuda

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_THREADS,
    STORED,
    Behind,
    Tile,
    first_place,
    freeing,
    share,
    staging,
)
from llm_numba.kernels.gemm_hopper_stored import BOX_COLUMNS, boxes_of

_BOXES = 2  # of a stage: at least 128 columns are in each tile that has 128 rows
_EIGHTS = BOX_COLUMNS // 8


def bringing(tile: Tile, columns: int) -> Behind:
    """Make what brings a tile's residual.

    Parameters
    ----------
    tile : Tile
    columns : int
        Of C that the tile makes.
    """
    BOXES, BOX, STAGE, stage_of = (
        boxes_of(columns),
        tile.rows * BOX_COLUMNS,
        tile.stage,
        staging(tile),
    )
    SLABS = -(-BOXES // _BOXES)

    @cuda.jit(device=True)
    def bring(tiles, full, free, count, residual_map, row, column):
        """Bring the boxes of all slabs; what lies outside is zeros."""
        first = first_place(tiles)
        for slab in range(SLABS):
            stage, turn = stage_of(count + slab)
            boxes = min(_BOXES, BOXES - slab * _BOXES)
            while not ptx.mbarrier_test(free, stage, turn & 1 ^ 1):
                pass
            ptx.mbarrier_expect(full, stage, 2 * BOX * boxes)
            for box in range(boxes):
                here = column + (slab * _BOXES + box) * BOX_COLUMNS
                at = first + stage * STAGE + box * BOX
                ptx.tma_load_2d(tiles, at, residual_map, here, row, full, stage)

    return Behind(SLABS, bring)


def reading(storage: str, tile: Tile, columns: int) -> tuple[Any, Any, Any]:
    """Make what awaits a part of the residual, what reads of it, and what frees it.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile, columns
        As of :func:`bringing`.
    """
    FORM, BOX, STAGE = STORED[storage], tile.rows * BOX_COLUMNS, tile.stage
    PER_STAGE, LAST = _BOXES * _EIGHTS, columns // 8
    stage_of, set_free = staging(tile), freeing(tile)

    @cuda.jit(device=True, forceinline=True)
    def await_stage(beside, i):
        """Wait for the stage that the i-th eight columns begin, if they do."""
        full, _, count = beside
        if i % PER_STAGE == 0:
            stage, turn = stage_of(count + i // PER_STAGE)
            while not ptx.mbarrier_test(full, stage, turn & 1):
                pass

    @cuda.jit(device=True, forceinline=True)
    def read(beside, i, h, _row, _column):
        """Return the two neighbours that belong to sums of the i-th eight columns, if there are."""
        i = min(i, LAST - 1)
        tiles = cuda.shared.array(0, FORM)
        stage, _ = stage_of(beside[2] + i // PER_STAGE)
        lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
        row = share() + 16 * warp + lane // 4 + 8 * h
        box = first_place(tiles) + stage * STAGE + i // _EIGHTS % _BOXES * BOX
        place = box + row * BOX_COLUMNS + (i % _EIGHTS ^ row % 8) * 8 + lane % 4 * 2
        return ptx.load_pair(tiles, place)

    @cuda.jit(device=True, forceinline=True)
    def leave_stage(beside, i):
        """Free the stage that ends before the i-th eight columns, if one does."""
        _, free, count = beside
        if i % PER_STAGE == 0 or i >= LAST:
            cuda.syncwarp()
            set_free(free, count + (i - 1) // PER_STAGE)

    return await_stage, read, leave_stage
