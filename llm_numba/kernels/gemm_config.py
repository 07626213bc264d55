"""How a product is cut into blocks, warps and threads, and the rule that chooses."""

import math
from typing import Any, NamedTuple

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_pieces import Outputs

WARP = 32
# Lanes of a warp along the rows and the columns of its tile; see gemm_warp_tile.
LANE_ROWS, LANE_COLUMNS = 8, 4


class Config(NamedTuple):
    """A cut.

    Attributes
    ----------
    rows, columns : int
        Of C, that a block makes.
    warp_rows, warp_columns : int
        That a warp of it makes: multiples of 8 and 4, the lanes along them.
    packets : int
        Of 16 bytes along K that are in shared memory at once.
    blocks : int
        That are to fit on an SM, as far as registers go.
    splits : int
        Parts of K that different blocks work on.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    packets: int
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
    def outputs(self) -> Outputs:
        """Of a thread."""
        rows, columns = self.warp_rows // LANE_ROWS, self.warp_columns // LANE_COLUMNS
        return Outputs(rows, columns, LANE_ROWS, LANE_COLUMNS)

    def blocks_for(self, M: int, N: int) -> int:
        """Count the blocks that cover [M, N], splits apart."""
        return math.ceil(M / self.rows) * math.ceil(N / self.columns)

    @property
    def is_whole(self) -> bool:
        """Whether rows of a slab are all brought, and by all threads together."""
        together = self.threads // self.packets
        return self.rows % together == 0 and self.columns % together == 0

    def slab(self, storage: str) -> int:
        """Numbers along K that are in shared memory at once."""
        return self.packets * ptx.VECTOR[storage]


_SMS = 132  # of an H100
# Multiply-adds that one of its SMs makes in a second with the largest tiles.
_SM_RATE = 0.19e12
_BYTES_A_SECOND = 3.0e12
_LAUNCH_SECONDS = 3e-6
# Fewer numbers of K than this are not worth a part of their own.
_LEAST_SHARE = 256

_LARGE = Config(256, 128, 64, 64, 2, 1)
_SQUARE = Config(128, 128, 64, 64, 2, 2)
_CORNER = Config(32, 32, 32, 32, 2, 1)
_SPECK = Config(8, 8, 8, 8, 4, 1)
# By the most rows that they are for; and how fast they are, beside the largest tile.
_TILES = {
    8: {Config(8, 64, 8, 32, 8, 6): 0.3},
    16: {Config(16, 128, 16, 32, 8, 3): 0.5},
    32: {Config(32, 128, 32, 32, 4, 3): 0.7},
    math.inf: {
        _LARGE: 1.0,
        _SQUARE: 0.95,
        Config(64, 64, 64, 32, 2, 6): 0.85,
    },
}


def unsplit(M: int, N: int, dtype: str) -> Config:
    """Choose a cut that leaves K whole: 128 x 128, or a tile that is not mostly empty.

    Parameters
    ----------
    M, N : int
        Of the product.
    dtype : str
        Storage format.

    Returns
    -------
    Config
        With one split. Each output is then summed up in the order of K, so that its bits do not
        depend on the cut.
    """
    tile = _SQUARE if min(M, N) > 64 else _CORNER if min(M, N) > 8 else _SPECK
    return _stored_as(dtype, tile)


def rule(shape: tuple[int, int, int], dtype: str) -> Config:
    """Choose the cut that should take least time on an H100.

    A large tile needs fewest numbers for a multiply-add. But all SMs work until the last one has
    done: too few tiles, or a few more than a round of all SMs makes, cost as much as many. Smaller
    tiles fill a round better, and so do parts of K, which must be written and added up.

    Parameters
    ----------
    shape : tuple of int
        M, N (rows of the weight) and K.
    dtype : str
        Storage format.

    Returns
    -------
    Config
    """
    if max(shape[:2]) <= 8:
        return with_splits(_SPECK, shape)[-1]
    return min(candidates(shape, dtype), key=lambda config: _seconds(config, shape, dtype))


def candidates(shape: tuple[int, int, int], dtype: str) -> tuple[Config, ...]:
    """Return the cuts that are worth a measurement, the rule's among them.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    """
    if max(shape[:2]) <= 8:
        return with_splits(_SPECK, shape)
    return tuple(each for tile in _tiles(shape[0], dtype) for each in with_splits(tile, shape))


def _stored_as(dtype: str, tile: Config) -> Config:
    """Return a tile whose slabs have as few numbers, if they are stored in 16 bits.

    Short slabs are all multiplied in one piece of code, which has to do with 255 registers.
    """
    return tile._replace(packets=1) if dtype != "float32" and tile.packets == 2 else tile


def _tiles(M: int, dtype: str) -> dict[Config, float]:
    """Return the tiles for so many rows, and how fast they are beside the largest."""
    tiles = next(tiles for most, tiles in _TILES.items() if most >= M)
    stored = {_stored_as(dtype, tile): speed for tile, speed in tiles.items()}
    return {tile: speed for tile, speed in stored.items() if tile.is_whole}


def with_splits(tile: Any, shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Return a tile with all numbers of splits that are worth it.

    Parameters
    ----------
    tile : Config, or another cut with `blocks`, `splits` and ``blocks_for``
    shape : tuple of int
    """
    M, N, K = shape
    # As many blocks as there is room for at once.
    room = _SMS * tile.blocks // max(1, tile.blocks_for(M, N))
    most = max(1, min(room, K // _LEAST_SHARE))
    return tuple(tile._replace(splits=splits) for splits in (1, 2, 4, 8, 16) if splits <= most)


def _seconds(config: Config, shape: tuple[int, int, int], dtype: str) -> float:
    """Estimate the time of a product."""
    speed = _SM_RATE * _tiles(shape[0], dtype)[config._replace(splits=1)]
    return seconds(config, shape, speed)


def seconds(config: Any, shape: tuple[int, int, int], speed: float) -> float:
    """Estimate the time of a product from the rounds that its blocks take.

    Parameters
    ----------
    config : Config, or another cut
    shape : tuple of int
    speed : float
        Multiply-adds that an SM makes in a second.
    """
    M, N, K = shape
    at_once = _SMS * config.blocks
    rounds = math.ceil(config.blocks_for(M, N) * config.splits / at_once)
    work = config.rows * config.columns * config.blocks * math.ceil(K / config.splits)
    parts = 0.0
    if config.splits > 1:
        # Written, and read again by a second kernel.
        parts = 2 * 4 * config.splits * M * N / _BYTES_A_SECOND + _LAUNCH_SECONDS
    return rounds * work / speed + parts
