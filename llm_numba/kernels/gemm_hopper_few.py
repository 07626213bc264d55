r"""Which kernel multiplies 17 to 256 rows on Hopper: the one whose predicted time is the least.

==============  ==============================================================  =============
kernel          what a block multiplies, and what it reads for that             rows of x
==============  ==============================================================  =============
``streamed``    64 or 128 columns, a part of K; all rows of x                   up to 128
``multicast``   all K of so many columns that each SM has a block; half of x    up to 128
``split``       a tile of 128 rows, a part of K                                 65 to 256
``whole``       tiles of 128 rows, all of K                                     65 to 256
==============  ==============================================================  =============

None is faster than memory gives the bytes of x, W and C. Beside that a block goes through its slabs
of K, and neither waits for the other. What comes before and after, nothing hides: a launch, the
first slab's way, and sums that meet. So

.. math:: T = T_{ends} + \max(T_{memory}, T_{slabs})

The first two kernels are as fast as an SM takes in what their slabs are made of; of the others a
slab takes what was measured. All numbers come from trials on an H100 with the products of an 8B
model, and two of a 70B one, at 32 to 256 rows. There this chooses the fastest of the four, or one
within 3 % of it.

Source: S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model",
2009.
"""

import functools
import math
from typing import NamedTuple

from llm_numba.kernels.gemm_hopper_fused import whole_tile
from llm_numba.kernels.gemm_hopper_pieces import SLAB, Tile
from llm_numba.kernels.gemm_hopper_split import SPLIT_SLAB, cuts_for
from llm_numba.kernels.gemm_skinny import MOST_ROWS as MOST_STREAMED
from llm_numba.kernels.gemm_skinny_multicast import slice_for
from llm_numba.kernels.gemm_tensorcore_tiles import Tile as Stream
from llm_numba.kernels.packets import rounded_up
from llm_numba.runtime.room import Room

MOST_ROWS = 256
_FEWEST_ROWS = 32  # that a kernel is made for
_MOST_WITHOUT_TILES = 64  # of more rows, tiles of 128 are mostly full
# Microseconds, and bytes in one of them.
_MEMORY = 2.8e6
_TAKEN_IN = 53e3  # by an SM, of slabs that hold few rows of weights
_ENDS = {"streamed": 5.0, "multicast": 5.5, "split": 8.0, "whole": 4.5}
_MEETING = 6.0 / 128  # of a row of sums, where blocks of `streamed` share K


class Choice(NamedTuple):
    """How a product may be computed.

    Attributes
    ----------
    kernel : {"streamed", "multicast", "split", "whole"}
    time : float
        Predicted, in microseconds.
    cut : (Tile, int) or None
        Of ``"split"``: the tile, and how many blocks share its K.
    """

    kernel: str
    time: float
    cut: tuple[Tile, int] | None = None


@functools.lru_cache(maxsize=1024)
def fastest(shape: tuple[int, int, int], gated: bool, room: Room, stream: Stream) -> Choice:
    """Choose a kernel.

    Parameters
    ----------
    shape : tuple of int
        M up to 256, N (rows of the weight) and K.
    gated : bool
        Whether N are rows of a gate and of what it lets through.
    room : Room
        Of the device.
    stream : Tile
        How ``streamed`` would cut it.

    Returns
    -------
    Choice
    """
    return min(choices(shape, gated, room, stream), key=lambda choice: choice.time)


def choices(
    shape: tuple[int, int, int], gated: bool, room: Room, stream: Stream
) -> tuple[Choice, ...]:
    """Predict the time of each kernel that is for so many rows.

    Parameters
    ----------
    shape, gated, room, stream
        As of :func:`fastest`.

    Returns
    -------
    tuple of Choice
        What is not faster than one before it is not worth a change.
    """
    (M,) = rounded_up((max(shape[0], _FEWEST_ROWS),))
    _, N, K = shape
    numbers = M * K + N * K + M * (N // 2 if gated else N)
    slabs, in_memory = math.ceil(K / SLAB), 2 * numbers / _MEMORY

    def choice(kernel: str, multiplying: float, more: float = 0, **cut: tuple[Tile, int]) -> Choice:
        return Choice(kernel, _ENDS[kernel] + more + max(multiplying, in_memory), **cut)

    found = []
    if M <= MOST_STREAMED:
        # Where SMs have several blocks of it, memory serves all alike.
        each = math.ceil(N / stream.columns) * stream.splits / room.multiprocessors
        part = math.ceil(slabs / stream.splits) * _taken_in(M + stream.columns)
        meeting = _MEETING * M if stream.splits > 1 else 0
        found.append(choice("streamed", max(1, each) * part, meeting))
        cut = slice_for((M, N, K), gated, room)
        turns = math.ceil(N / cut.columns / room.multiprocessors)
        found.append(choice("multicast", turns * slabs * _taken_in(M / cut.blocks + cut.columns)))
    if M > _MOST_WITHOUT_TILES:
        tile = whole_tile(M, N, gated, room.multiprocessors)
        tiles = math.ceil(M / tile.rows) * math.ceil(N / tile.columns)
        waves = math.ceil(tiles / room.multiprocessors)
        found.append(choice("whole", waves * slabs * _of_whole_slab(tile)))
        for cut in cuts_for(M, N, K, room.multiprocessors):
            part = math.ceil(slabs / cut[1]) * SPLIT_SLAB[cut]
            found.append(choice("split", part, cut=cut))
    return tuple(found)


def _taken_in(rows: float) -> float:
    """Return the time of a slab of so many rows of x and W."""
    return 2 * rows * SLAB / _TAKEN_IN


def _of_whole_slab(tile: Tile) -> float:
    return 0.05 + 0.0021 * tile.columns
