r"""What the steps on tensor cores share: tiles in shared memory, fragments, and the end.

A stage holds rows of A and of W, ``slab`` numbers along K of each. They come in packets of 16
bytes, along rows; they are wanted as fragments, 8 rows at a time. Where packet p of row r lies
decides what its readers wait for:

::

    8 rows of 64 numbers, 128 bytes each: all 32 banks. A matrix of ldmatrix is one packet of each.

    as it comes                     padded: 16 bytes a row        swizzled: packet p ^ r
    banks  0-3  4-7  8-11  ..       0-3  4-7  8-11  ..            0-3  4-7  8-11  ..
    row 0 [p0] [p1] [p2]           [p0] [p1] [p2]                [p0] [p1] [p2] [p3]
    row 1 [p0] [p1] [p2]            pad [p0] [p1] [p2]           [p1] [p0] [p3] [p2]
    row 2 [p0] [p1] [p2]                 pad [p0] [p1]           [p2] [p3] [p0] [p1]
    row 3 [p0] [p1] [p2]                      pad [p0]           [p3] [p2] [p1] [p0]
     :      8 passes                  1 pass                       1 pass, and no byte is wasted

Exclusive or by one number maps packets to packets, each to a place of its own; and by different
numbers it takes one packet to different places. Rows of 32 numbers fill the banks two at a time, so
there the swizzle is ``p ^ r / 2``.

*Which word where.* An instruction takes its words of A, and those of B, from neighbouring
registers, and ``ldmatrix`` fills four of them in the order of its matrices. Of A it loads 16 rows,
in the fragment's order: 8 rows, 8 rows, and both again further along K. Of W 16 rows are two
fragments of B, so both halves along K of 8 rows come first. In any other order each pair would have
to be brought together first, an instruction for every multiplication.

*Where a fragment lies.* Of all rows that a lane names, the last bits are the same, for they stand
16 apart. So the swizzle is worked out once, and sixteen numbers further along K are an exclusive or
with two packets' length:

.. math:: (p + 2s) \oplus r = (p \oplus r) \oplus 2s \qquad\text{for even } 2s \text{ and } p < 2
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_tensorcore_epilogue import store_packet
from llm_numba.kernels.gemm_tensorcore_tiles import FRAGMENT, PACKET, WARP, Tile
from llm_numba.kernels.unrolled import unrolled

PADDING = PACKET
_BANKS = 64  # numbers of 16 bits that all banks have side by side


class Layout(NamedTuple):
    """The device functions of a layout of stages.

    Attributes
    ----------
    place
        ``place(row, packet)`` is the element at which a packet of a row of the stage lies.
    aim_a, aim_w
        ``aim(row)`` is what the loads want to know of a warp's first row of A, or of W.
    load_a, load_w
        ``load(tiles, stage, aim, step, part)`` loads fragments of 16 numbers along K, number `step`
        of the slab, into uint32 ``part [fragments, 4]``: as many as that has.
    """

    place: Any
    aim_a: Any
    aim_w: Any
    load_a: Any
    load_w: Any


@functools.cache
def padded(tile: Tile) -> Layout:
    """Make the layout with padded rows, whose fragments come word by word.

    Parameters
    ----------
    tile : Tile
    """
    PITCH = tile.slab + PADDING

    @cuda.jit(device=True, forceinline=True)
    def place(row, packet):
        """Return where a packet lies."""
        return row * PITCH + packet * PACKET

    @cuda.jit(device=True, forceinline=True)
    def aim(row):
        """Return where the lane's first pair of numbers lies: row g, numbers 2t and 2t + 1."""
        lane = cuda.threadIdx.x % WARP
        return (row + lane // 4) * PITCH + lane % 4 * 2

    def loading(of_w: bool) -> Any:
        @cuda.jit(device=True, forceinline=True)
        def load(tiles, stage, at, step, part):
            """Load pairs of numbers: rows g and g + 8, numbers 2t and 2t + 8."""
            words = cuda.shared.array(0, uint32)  # the same memory, two numbers at a time
            for i in range(len(part)):
                for e in range(4):
                    lower, later = (e // 2, e % 2) if of_w else (e % 2, e // 2)
                    row, k = i * FRAGMENT + lower * 8, step * FRAGMENT + later * 8
                    part[i, e] = words[uint64(stage + at + row * PITCH + k) >> 1]

        return load

    return Layout(place, aim, aim, loading(False), loading(True))


@functools.cache
def swizzled(tile: Tile) -> Layout:
    """Make the swizzled layout, whose fragments come by ``ldmatrix``.

    Parameters
    ----------
    tile : Tile
    """
    SLAB, PACKETS, TOGETHER = tile.slab, tile.packets, _BANKS // tile.slab

    @cuda.jit(device=True, forceinline=True)
    def place(row, packet):
        """Return where a packet lies."""
        return row * SLAB + (packet ^ row // TOGETHER % PACKETS) * PACKET

    @cuda.jit(device=True, forceinline=True)
    def aim_a(row):
        """Return where the row lies that the lane names, of the first fragment."""
        lane = cuda.threadIdx.x % WARP
        return place(row + lane % 16, lane // 16)

    @cuda.jit(device=True, forceinline=True)
    def aim_w(row):
        """Return the same; the second matrix is the later half of the first one's rows."""
        lane = cuda.threadIdx.x % WARP
        return place(row + lane // 16 * 8 + lane % 8, lane // 8 % 2)

    @cuda.jit(device=True, forceinline=True)
    def load(tiles, stage, at, step, part):
        """Load fragments of 16 rows."""
        first = stage + (at ^ step * FRAGMENT)
        for i in range(len(part)):
            four = ptx.ldmatrix_x4(tiles, first + i * FRAGMENT * SLAB)
            for e in range(4):
                part[i, e] = four[e]

    return Layout(place, aim_a, aim_w, load, load)


@functools.cache
def multiplying(tile: Tile) -> Any:
    """Make the device function that multiplies a warp's fragments.

    Parameters
    ----------
    tile : Tile

    Returns
    -------
    device function
        ``multiply(0, (form, a_part, w_part, total))`` with an array of which only the type matters,
        fragments of A and of W, and sums ``[products, 4]``.
    """
    DOWN, ACROSS = tile.fragments
    COLUMNS = 2 * ACROSS  # an instruction takes 8 rows of W, half of what is loaded as one

    @cuda.jit(device=True, forceinline=True)
    def one(i, operands):
        """Multiply 16 rows by 8 columns."""
        form, a_part, w_part, total = operands
        row, column = i // COLUMNS, i % COLUMNS
        a = a_part[row, 0], a_part[row, 1], a_part[row, 2], a_part[row, 3]
        b = w_part[column // 2, column % 2 * 2], w_part[column // 2, column % 2 * 2 + 1]
        sums = total[i, 0], total[i, 1], total[i, 2], total[i, 3]
        sums = ptx.mma_16x8x16(form, a, b, sums)
        for e in range(4):
            total[i, e] = sums[e]

    return unrolled(DOWN * COLUMNS, one)


@functools.cache
def storing(tile: Tile, gated: bool = False) -> Any:
    """Make the device function that finishes a warp's outputs and stores them.

    Parameters
    ----------
    tile : Tile
    gated : bool
        Whether the first half of a warp's columns are gates, and the other half what they multiply.

    Returns
    -------
    device function
        ``store(total, passing, row, column, bias, residual, activation, c)`` with the first row and
        column of C that are the warp's, and float32 ``passing`` in shared memory.

    Notes
    -----
    A lane has two neighbours of a row here and two there. Through shared memory 16 rows at a time
    become packets of 16 bytes. The rows' loop is not unrolled, for an epilogue is much code: so it
    always takes the first sums, and the others move up.
    """
    DOWN, COLUMNS = tile.fragments[0], 2 * tile.fragments[1]
    PITCH = tile.pitch
    SHARE = tile.warp_columns // 2 if gated else tile.warp_columns
    GAP = SHARE if gated else 0

    @cuda.jit(device=True)
    def store(total, passing, row, column, bias, residual, activation, c):
        """Finish 16 rows after the other: each warp by itself."""
        lane, own = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP * FRAGMENT * PITCH
        at = own + lane // 4 * PITCH + lane % 4 * 2
        width = ptx.items16(c)
        across = SHARE // width
        for top in range(row, row + DOWN * FRAGMENT, FRAGMENT):
            for j in range(COLUMNS):
                for e in range(4):
                    passing[at + e // 2 * 8 * PITCH + j * 8 + e % 2] = total[j, e]
            cuda.syncwarp()
            for i in range(lane, FRAGMENT * across, WARP):
                m, n = top + i // across, i % across * width
                if m < c.shape[0] and column + n < c.shape[1]:
                    sums = own + i // across * PITCH + n
                    store_packet(passing, sums, GAP, m, column + n, bias, residual, activation, c)
            cuda.syncwarp()
            for j in range((DOWN - 1) * COLUMNS):
                for e in range(4):
                    total[j, e] = total[j + COLUMNS, e]

    return store


@cuda.jit(device=True, forceinline=True)
def clear(total):
    """Set sums to zero."""
    for i in range(len(total)):
        for e in range(4):
            total[i, e] = float32(0)
