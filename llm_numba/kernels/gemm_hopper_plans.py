"""Which tile a Hopper product is cut into: clusters work in waves, as many as a GPU holds.

A cluster takes two tiles below each other, 256 rows of C. An H100 has 132 SMs, room for 66 of them
at a time. Whatever is left for the last wave takes as long as a full one::

    512 x 6144, in clusters of     256 x 256      256 x 192      256 x 128
    how many                       2 x 24 = 48    2 x 32 = 64    2 x 48 = 96
    waves of 66                    1              1              2
    columns, one after the other   256            192  <-- least 256

So the tile is chosen by waves times columns. But a narrow tile is slower for what it computes: rows
of A are brought, and read out of shared memory, for fewer products. That is what
:data:`COLUMN_TIME` says, by what 24 products of 512 to 2,048 rows of A took in each of the tiles on
an H100: so weighed, the tile that is chosen was the fastest, or within half a per cent of it.
"""

import math
from collections.abc import Iterable
from typing import Any

from llm_numba.kernels.gemm_hopper_clusters import BLOCKS, clusters
from llm_numba.kernels.gemm_hopper_overlapped import OVERLAPPED
from llm_numba.kernels.gemm_hopper_pieces import GROUP_ROWS, GROUP_THREADS, Ending, Tile
from llm_numba.kernels.gemm_hopper_stored import staging_bytes
from llm_numba.kernels.gemm_plans import present
from llm_numba.runtime import Launch, storage_dtype, tensor_map
from llm_numba.runtime.room import room_of

LARGE = Tile(128, 256, 4)
# Of each tile: the time of a column, that of the largest being 1.
COLUMN_TIME = {
    LARGE: 1.0,
    Tile(128, 224, 4): 1.03,
    Tile(128, 192, 4): 1.05,
    Tile(128, 160, 5): 1.15,
    Tile(128, 128, 6): 1.3,
}
TOGETHER = 8  # rows of clusters that are gone through together: 2,048 rows of A


def tile_for(
    M: int,
    N: int,
    multiprocessors: int,
    blocks: int = 1,
    tiles: Iterable[Tile] = tuple(COLUMN_TIME),
) -> Tile:
    """Choose the tile whose waves take the least time.

    Parameters
    ----------
    M, N : int
        Rows of A, and of B.
    multiprocessors : int
        Of the GPU.
    blocks : int
        Of a cluster.
    tiles : iterable of Tile
        To choose from, of :data:`COLUMN_TIME`.

    Returns
    -------
    Tile
    """
    at_once = max(1, multiprocessors // blocks)

    def time(tile: Tile) -> float:
        waves = math.ceil(_count(tile, blocks, M, N) / at_once)
        return waves * tile.columns * COLUMN_TIME[tile]

    return min(tiles, key=time)


def plan_clusters(
    x: Any, weight: Any, out: Any, tile: Tile, ending: Ending = OVERLAPPED
) -> tuple[Launch, ...]:
    """Plan a product in clusters, as many as the GPU holds.

    Parameters
    ----------
    x, weight, out : array
        [M, K], [N, K] and [M, N], whose rows are multiples of 16 bytes.
    tile : Tile
    ending : Ending
    """
    at_once = max(1, room_of(out).multiprocessors // BLOCKS)
    some = min(_count(tile, BLOCKS, *out.shape), at_once)
    maps = tensor_map(x, tile.rows), tensor_map(weight, tile.columns // BLOCKS)
    nothing = present(None, None, x, out)
    args = (*maps, x.shape[1], out, TOGETHER, tensor_map(out, GROUP_ROWS), *nothing)
    threads = GROUP_THREADS * (1 + tile.groups)
    shared_bytes = tile.shared_bytes + staging_bytes(tile)
    kernel = clusters(storage_dtype(x), tile, ending)
    return (Launch(kernel, (BLOCKS * some,), (threads,), args, shared_bytes),)


def plan(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    """Plan a product by the kernel and the tile that suit its shape.

    Parameters
    ----------
    x, weight, out : array
        As of :func:`plan_clusters`.
    """
    tile = tile_for(*out.shape, room_of(out).multiprocessors, BLOCKS)
    return plan_clusters(x, weight, out, tile)


def _count(tile: Tile, blocks: int, M: int, N: int) -> int:
    """Return how many clusters of so many blocks, or blocks, a product takes."""
    return math.ceil(M / (blocks * tile.rows)) * math.ceil(N / tile.columns)
