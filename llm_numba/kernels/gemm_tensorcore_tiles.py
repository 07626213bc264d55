"""How a product on tensor cores is cut into blocks, warps and stages."""

import math
from typing import NamedTuple

from llm_numba.kernels.gemm_config import seconds, with_splits

WARP = 32
PACKET = 8  # numbers of 16 bits in 16 bytes: what a thread copies at once
FRAGMENT = 16  # rows of A, and numbers along K, that one instruction multiplies
_HALF = 2  # bytes of a number
_FLOAT = 4  # bytes of a sum
# Words of padding behind a row of finished sums: 8 rows then begin in different banks.
_PAD = 8


class Tile(NamedTuple):
    """A cut.

    Attributes
    ----------
    rows, columns : int
        Of C, that a block makes.
    warp_rows, warp_columns : int
        That a warp of it makes: multiples of 16.
    slab : int
        Numbers along K that a stage has of each row: 32 or 64.
    stages : int
        Slabs in shared memory: one is multiplied while the others are on their way.
    blocks : int
        That are to fit on an SM, as far as registers go.
    splits : int
        Parts of K that different blocks work on.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    slab: int
    stages: int
    blocks: int
    splits: int = 1

    @property
    def warps_along_columns(self) -> int:
        """Warps side by side."""
        return self.columns // self.warp_columns

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARP * self.warps_along_columns * (self.rows // self.warp_rows)

    @property
    def packets(self) -> int:
        """Of 16 bytes, that a stage has of each row."""
        return self.slab // PACKET

    @property
    def fragments(self) -> tuple[int, int]:
        """Fragments of 16 rows that a warp has, of A and of W."""
        return self.warp_rows // FRAGMENT, self.warp_columns // FRAGMENT

    @property
    def pitch(self) -> int:
        """Floats from row to row of the finished sums that pass through shared memory."""
        return self.warp_columns + _PAD

    def shared_bytes(self, stages: int, padding: int = 0) -> int:
        """Return the shared memory of a block.

        Parameters
        ----------
        stages : int
        padding : int
            Numbers behind each row of a stage.
        """
        slabs = stages * (self.rows + self.columns) * (self.slab + padding) * _HALF
        # Finished sums pass through the same memory, 16 rows of each warp at a time.
        passing = self.threads // WARP * FRAGMENT * self.pitch * _FLOAT
        return max(slabs, passing)

    def blocks_for(self, M: int, N: int) -> int:
        """Count the blocks that cover [M, N], splits apart."""
        return math.ceil(M / self.rows) * math.ceil(N / self.columns)


# Of the steps before fragments come twice: 64 x 32 outputs a warp.
EARLY = Tile(128, 128, 64, 32, 32, 4, 2)

# Multiply-adds that an SM of an H100 makes in a second with the largest tiles.
_SM_RATE = 2.0e12
# The GPUs with least shared memory have 99 KiB for a block: no tile here takes more, but for LONG.
LARGE = Tile(128, 256, 64, 64, 32, 4, 1)
LONG = LARGE._replace(slab=64, stages=3)
_TALL = Tile(256, 128, 64, 64, 32, 4, 1)
SQUARE = Tile(128, 128, 64, 64, 32, 4, 2)
_HALF_SQUARE = Tile(64, 128, 32, 64, 32, 4, 2)
_CORNER = Tile(64, 64, 32, 32, 64, 4, 3)
SPECK = Tile(32, 32, 16, 16, 32, 3, 4)
# By the most rows that they are for; and how fast they are, beside the largest tile.
_TILES = {
    32: {Tile(32, 128, 32, 32, 64, 4, 2): 0.5},
    64: {_HALF_SQUARE: 0.75, _CORNER: 0.6},
    math.inf: {LARGE: 1.0, _TALL: 1.0, SQUARE: 0.9, _HALF_SQUARE: 0.75, _CORNER: 0.6},
}


def unsplit(M: int, N: int, large: Tile) -> Tile:
    """Choose a cut that leaves K whole: a large tile, or one that is not mostly empty.

    Parameters
    ----------
    M, N : int
        Of the product.
    large : Tile
    """
    return large if min(M, N) > SPECK.rows else SPECK


def lengthened(tile: Tile, shared_bytes: int) -> Tile:
    """Choose three longer slabs for a large tile, where shared memory has room for its blocks.

    Parameters
    ----------
    tile : Tile
    shared_bytes : int
        That a block may have; an SM has hardly more.

    Returns
    -------
    Tile
        With the same splits.
    """
    longer = tile._replace(slab=LONG.slab, stages=LONG.stages)
    fits = tile.blocks * longer.shared_bytes(longer.stages) <= shared_bytes
    return longer if fits and tile._replace(splits=1) in (LARGE, _TALL, SQUARE) else tile


def rule(shape: tuple[int, int, int], dtype: str) -> Tile:
    """Choose the cut that should take least time on an H100.

    As :func:`llm_numba.kernels.gemm_config.rule` does: by the rounds that its blocks take, and what
    parts of K cost.

    Parameters
    ----------
    shape : tuple of int
        M, N (rows of the weight) and K.
    dtype : str
        Storage format; both have 16 bits, and the same cuts.

    Returns
    -------
    Tile
    """
    if max(shape[:2]) <= SPECK.rows:
        return with_splits(SPECK, shape)[-1]
    speeds = _tiles(shape[0])
    return min(
        candidates(shape, dtype),
        key=lambda tile: seconds(tile, shape, _SM_RATE * speeds[tile._replace(splits=1)]),
    )


def candidates(shape: tuple[int, int, int], dtype: str) -> tuple[Tile, ...]:
    """Return the cuts that are worth a measurement, the rule's among them.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    """
    if max(shape[:2]) <= SPECK.rows:
        return with_splits(SPECK, shape)
    return tuple(each for tile in _tiles(shape[0]) for each in with_splits(tile, shape))


def _tiles(M: int) -> dict[Tile, float]:
    """Return the tiles for so many rows, and how fast they are beside the largest."""
    return next(tiles for most, tiles in _TILES.items() if most >= M)
