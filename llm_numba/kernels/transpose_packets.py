"""The last step of the transpose ladder: 16 bytes a load and a store, on both sides.

A packet of a row of x is a piece of a column of y, of whose packets it is one element each. So a
thread takes as many rows as a packet has elements: a square, 4 x 4 of 4 bytes or 8 x 8 of 2 bytes,
whose packets are rows of x when it loads them and rows of y when it stores them. In between, words
of 4 bytes only change their names, for they are registers; of 2 bytes, halves of two words change
places, which is one instruction a word::

    row 0   a0 a1 | a2 a3 | ...          a0 b0 | c0 d0 | ...   row 0 of the result
    row 1   b0 b1 | b2 b3 | ...   ==>    a1 b1 | c1 d1 | ...   row 1
    row 2   c0 c1 | ...                  a2 b2 | ...

Neighbouring threads have squares side by side in x. To have them side by side in y as well, packets
change hands in shared memory. A tile is 16 squares wide and 16 squares high:

::

         x                   packets, turned            y
    +---------------+       +---------------+      +---------------+
    | t0 t1 ... t15 |       | t0 t16 ...    |      | t0 t1 ... t15 |     square (r, c) of x is
    | t16 ...       | ====> | t1 t17 ...    | ===> | t16 ...       |     square (c, r) of y
    |               |       | ...           |      |               |
    +---------------+       +---------------+      +---------------+

The 8 threads that shared memory serves at a time must write 8 packets that differ in their place
modulo 8, which 8 packets of one column do not. So packet (row, p) lies at (row, p XOR square of
the row modulo 8): the swizzle of the step before, of packets in place of words.
"""

import functools
from typing import Any

from numba import cuda, int32, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx

# Squares of a tile, along each side.
SQUARES = 16
THREADS = SQUARES * SQUARES

# Bytes of a result of byte_perm, the lowest last: the lower (or upper) halves of two words.
_LOWER, _UPPER = int32(0x5410), int32(0x7632)


@cuda.jit(device=True)
def _turned_words(held, packet):
    """Return a packet of a square of 4-byte elements, turned."""
    return held[packet], held[4 + packet], held[8 + packet], held[12 + packet]


@cuda.jit(device=True)
def _halves(held, row, packet):
    """Join the elements of two rows that belong into one word of the turned packet."""
    selector = _UPPER if packet & 1 else _LOWER
    at = 4 * row + (packet >> 1)
    return uint32(libdevice.byte_perm(int32(held[at]), int32(held[at + 4]), selector))


@cuda.jit(device=True)
def _turned_halves(held, packet):
    """Return a packet of a square of 2-byte elements, turned."""
    return (
        _halves(held, 0, packet),
        _halves(held, 2, packet),
        _halves(held, 4, packet),
        _halves(held, 6, packet),
    )


@functools.cache
def packets(itemsize: int) -> Any:
    """Make the kernel for elements of so many bytes.

    Parameters
    ----------
    itemsize : {2, 4}

    Returns
    -------
    dispatcher
    """
    side = 16 // itemsize
    words, tile_words = 4 * side, 4 * side * THREADS
    turned = _turned_halves if itemsize == 2 else _turned_words

    @cuda.jit
    def transpose_packets(x, y):
        """Turn squares in registers and exchange their packets in shared memory."""
        tile = cuda.shared.array(tile_words, int32)
        held = cuda.local.array(words, uint32)
        rows, columns = x.shape
        across = (columns + SQUARES * side - 1) // (SQUARES * side)
        top = cuda.blockIdx.x // across * (SQUARES * side)
        left = cuda.blockIdx.x % across * (SQUARES * side)
        c, r = cuda.threadIdx.x, cuda.threadIdx.y
        m, n = top + r * side, left + c * side
        if m < rows and n < columns:
            for j in range(side):
                packet = ptx.load_raw16(x, (m + j) * columns + n)
                for w in range(4):
                    held[4 * j + w] = packet[w]
            for j in range(side):
                place = (c * side + j) * SQUARES + (r ^ (c & 7))
                ptx.store_raw16(tile, 4 * place, turned(held, j))
        cuda.syncthreads()
        m, n = top + c * side, left + r * side
        if m < rows and n < columns:
            for j in range(side):
                place = (r * side + j) * SQUARES + (c ^ (r & 7))
                ptx.store_raw16(y, (n + j) * rows + m, ptx.load_raw16(tile, 4 * place))

    return transpose_packets
