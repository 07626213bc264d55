"""How queries, keys and values come from anywhere in memory into tiles of shared memory.

q and the caches are seen as matrices of rows of D: row (n G + g) R + r of q, and slot * G + g of a
cache. A block first writes down which rows its tile is made of, -1 for none. Then it *fetches*
them, 16 bytes a load, into registers, and later *puts* them, widened, into shared memory. Between
the two it computes with the tile before, and the loads take no time. Outputs go the other way.

::

    sources   [ 17, 19, 21, 23, -1, -1, ...]        rows of the matrix, -1: zeros

    thread    0 1 ... 7 | 8 9 ... 15 | 16 ...       8 threads a row, 16 bytes each at a time,
    row           0     |     1      |  2           16 rows at a time
"""

from numba import cuda, float32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_places import divided

THREADS = 128
QUAD = 4  # float32 in 16 bytes
NOTHING = (uint32(0), uint32(0), uint32(0), uint32(0))
_ACROSS = 8
_DOWN = THREADS // _ACROSS


@cuda.jit(device=True)
def name_queries(sources, positions, rows, start, past, first, last, kv_heads, head, group):
    """Write down which row of q each row of the tile is, and its position; -1 beyond the last."""
    for row in range(cuda.threadIdx.x, rows, THREADS):
        token, member = divided(first + row, group)
        source = ((start + token) * kv_heads + head) * group + member
        sources[row] = source if first + row <= last else -1
        positions[row] = past + token if first + row <= last else -1


@cuda.jit(device=True)
def name_keys(sources, keys, first_key, lowest, newest, slot_of, where):
    """Write down which row of the caches each key of the tile is; -1 if no query sees it."""
    block_tables, sequence, block_size, kv_heads, head = where
    for key in range(cuda.threadIdx.x, keys, THREADS):
        position = first_key + key
        source = -1
        if lowest <= position and position <= newest:
            slot = slot_of(block_tables, sequence, position, block_size)
            source = slot * kv_heads + head
        sources[key] = source


@cuda.jit(device=True)
def fetch_packets(array, head_dim, sources, rows, held):
    """Load a thread's share of some rows of a matrix, as it is; zeros for no row (-1).

    Eight threads a row, and a packet of it each at a time. All loads are under way at once, and
    nothing waits for them before :func:`put_packets`.
    """
    width = ptx.items16(array)
    turns = (head_dim + _ACROSS * width - 1) // (_ACROSS * width)
    for k in range(rows // _DOWN):
        source = sources[cuda.threadIdx.x // _ACROSS + k * _DOWN]
        for m in range(turns):
            column = (cuda.threadIdx.x % _ACROSS + m * _ACROSS) * width
            raw = NOTHING
            if source >= 0 and column < head_dim:
                raw = ptx.load_raw16(array, source * head_dim + column)
            n = k * turns + m
            held[n, 0], held[n, 1], held[n, 2], held[n, 3] = raw


@cuda.jit(device=True)
def put_packets(tile, at, pitch, array, head_dim, sources, rows, held):
    """Widen what :func:`fetch_packets` holds, and store it in shared memory."""
    width = ptx.items16(array)
    turns = (head_dim + _ACROSS * width - 1) // (_ACROSS * width)
    for k in range(rows // _DOWN):
        row = at + (cuda.threadIdx.x // _ACROSS + k * _DOWN) * pitch
        for m in range(turns):
            column = (cuda.threadIdx.x % _ACROSS + m * _ACROSS) * width
            if column < head_dim:
                n = k * turns + m
                raw = held[n, 0], held[n, 1], held[n, 2], held[n, 3]
                values = ptx.widen_raw16(array, raw)
                for e in range(0, width, QUAD):
                    quad = values[e], values[e + 1], values[e + 2], values[e + 3]
                    ptx.store16(tile, row + column + e, quad)


@cuda.jit(device=True)
def fetch_nothing(array, head_dim, sources, rows, held):
    """Leave all to :func:`put_elements`."""


@cuda.jit(device=True)
def put_elements(tile, at, pitch, array, head_dim, sources, rows, held):
    """Bring rows of any length, that may begin anywhere, into shared memory."""
    for i in range(cuda.threadIdx.x, rows * head_dim, THREADS):
        row, column = i // head_dim, i % head_dim
        value = float32(0)
        if sources[row] >= 0 and column < array.shape[1]:
            value = ptx.to_float(array[sources[row], column])
        tile[at + row * pitch + column] = value


@cuda.jit(device=True)
def store_packets(tile, pitch, array, head_dim, sources, rows):
    """Round rows of shared memory and store them, 16 bytes a thread, as they were fetched."""
    width = ptx.items16(array)
    turns = (head_dim + _ACROSS * width - 1) // (_ACROSS * width)
    for k in range(rows // _DOWN):
        row = cuda.threadIdx.x // _ACROSS + k * _DOWN
        for m in range(turns):
            column = (cuda.threadIdx.x % _ACROSS + m * _ACROSS) * width
            if sources[row] >= 0 and column < head_dim:
                values = ptx.zeros16(array)
                for e in range(width):
                    values = ptx.with_item(values, e, tile[row * pitch + column + e])
                ptx.store16(array, sources[row] * head_dim + column, values)


@cuda.jit(device=True)
def store_elements(tile, pitch, array, head_dim, sources, rows):
    """Do the same with rows of any length, that may begin anywhere."""
    for i in range(cuda.threadIdx.x, rows * head_dim, THREADS):
        row, column = i // head_dim, i % head_dim
        if sources[row] >= 0 and column < array.shape[1]:
            array[sources[row], column] = ptx.from_float(array, tile[row * pitch + column])
