"""How a product is cut into blocks, warps and threads, and the rule that chooses."""

import math
from typing import NamedTuple

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

    def slab(self, storage: str) -> int:
        """Numbers along K that are in shared memory at once."""
        return self.packets * ptx.VECTOR[storage]


# Blocks that keep an H100's 132 SMs busy, if one, two .. of them fit on each.
_SMS = 132
# Fewer numbers of K than this are not worth a part of their own, which is written and read again.
_LEAST_SHARE = 256
_MOST_SPLITS = 16

_LARGE = Config(128, 128, 64, 64, 2, 2)
_MIDDLE = Config(64, 64, 32, 32, 4, 4)
_FEW_ROWS = (
    Config(8, 64, 8, 32, 8, 6),
    Config(16, 128, 16, 32, 8, 3),
    Config(32, 128, 32, 32, 4, 3),
)
_CORNER = Config(32, 32, 32, 32, 2, 1)
_SPECK = Config(8, 16, 8, 16, 4, 1)


def unsplit(M: int, N: int) -> Config:
    """Choose a cut that leaves K whole: the largest tile, or one that is not mostly empty.

    Parameters
    ----------
    M, N : int
        Of the product.

    Returns
    -------
    Config
        With one split. Each output is then summed up in the order of K, so that its bits do not
        depend on the cut.
    """
    if min(M, N) > 64:
        return _LARGE
    return _CORNER if min(M, N) > 8 else _SPECK


def rule(shape: tuple[int, int, int], dtype: str) -> Config:
    """Choose a cut that fills an H100.

    A large tile needs fewest numbers for a multiply-add. Where there are too few of them for all
    SMs, smaller tiles are more; where even those are too few, K is split. Few rows get a tile of
    about as many.

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
    M, N, K = shape
    if min(M, N) <= 8:
        tile = _SPECK if N <= 16 else _FEW_ROWS[0]
    elif M <= 32:
        tile = _FEW_ROWS[1 if M <= 16 else 2]
    else:
        tile = _LARGE if _LARGE.blocks_for(M, N) >= _SMS else _MIDDLE
    room = _SMS * tile.blocks // max(1, tile.blocks_for(M, N))
    return tile._replace(splits=max(1, min(room, K // _LEAST_SHARE, _MOST_SPLITS)))


def candidates(shape: tuple[int, int, int], dtype: str) -> tuple[Config, ...]:
    """Return the cuts that are worth a measurement, the rule's among them.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    """
    M, _, K = shape
    first = rule(shape, dtype)
    tiles = [_LARGE, _MIDDLE] if M > 32 else [*_FEW_ROWS]
    splits = {each for each in (1, 2, 4, 8, 16) if each == 1 or K // each >= _LEAST_SHARE}
    found = [tile._replace(splits=each) for tile in tiles for each in sorted(splits)]
    return tuple(dict.fromkeys([first, *found]))[:12]
