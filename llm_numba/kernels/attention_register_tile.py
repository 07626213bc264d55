r"""Fused attention, 32 scores a thread: the kernel that the engine prefills with.

A block takes a tile of queries of one sequence and one KV head, and walks over the keys that they
see, a tile at a time. Query heads that share the KV head share the tile: with R = H/G heads a
group, its rows are pairs

::

    row of the tile     0          1          ...  R - 1        R          ...
    query, head         s, gR      s, gR + 1  ...  s, gR + R-1  s + 1, gR  ...

    shared memory                                         thread (x, y), 16 x 8 of them, owns
    q_tile  [rows, D]    once                             rows y, y + 8, y + 16, ...
    kv_tile [keys, D]    keys, and then their values      keys x, x + 16, x + 32, ...
    p_tile  [rows, keys] powers of two                    components 4x .. 4x + 3, 4x + 64 .., ...

For each tile of keys:

1. *Scores*: each thread makes its part of q_tile times kv_tile transposed, in registers.
2. *Online softmax*: the 16 threads of a row agree on its maximum so far. If it grew, what was
   summed before shrinks by :math:`2^{m_{old} - m_{new}}`: the sum l, and the output so far.
3. *Mix*: powers times values are added to the outputs, in registers, too.

The scores of a whole row are never in one place, let alone in memory. At the end each output is
divided by its l.

*Which lane is which thread.* Neighbouring lanes have the same x, and y one apart. A load of 16
bytes goes by quarters of a warp, and two quarters share a pass if their lanes come in pairs that
want the same: the neighbour (keys and values) or the lane after next (queries and powers). So each
load takes two passes where it would take four.

*Why tiles of keys begin at multiples of their length.* Then what a query sums, and in which order,
depends on its position and nothing else: not on other sequences, and not on how a prompt is cut
into chunks. Tiles in which it sees nothing change nothing, not a bit.

Sources: Dao et al., "FlashAttention", 2022, and Dao, "FlashAttention-2", 2023 (algorithm 1);
Milakov and Gimelshein, 2018 (the online rule).
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, int32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_places import first_tile_of, sequence_of_tile, slot_of
from llm_numba.kernels.reduce import FULL_WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

ACROSS = 16
DOWN = 8
THREADS = ACROSS * DOWN
QUAD = 4  # float32 in 16 bytes


class Config(NamedTuple):
    """How a block divides its work.

    Attributes
    ----------
    rows : int
        Of a tile of queries; a multiple of 8.
    keys : int
        Of a tile of keys; a multiple of 16.
    """

    rows: int
    keys: int


CONFIGS = (Config(64, 64), Config(64, 32), Config(32, 32), Config(32, 16), Config(16, 16))
MOST_SHARED_BYTES = 98 * 1024  # besides what is not dynamic


def tile_pitch(head_dim: int) -> int:
    """Return the words from row to row of q_tile and kv_tile: an odd number of 16 bytes.

    Then 8 neighbouring rows begin in 8 different groups of banks.
    """
    return (-(-head_dim // QUAD) | 1) * QUAD


def power_pitch(keys: int) -> int:
    """Return the words from row to row of p_tile: two rows of 16 powers fill the 32 banks."""
    return keys + ACROSS if keys % 32 == 0 else keys


def shared_bytes(head_dim: int, config: Config) -> int:
    """Return the dynamic shared memory of a block."""
    tiles = (config.rows + config.keys) * tile_pitch(head_dim)
    return 4 * (tiles + config.rows * power_pitch(config.keys))


def config_for(head_dim: int) -> Config:
    """Return the first of :data:`CONFIGS` that leaves room for two blocks of a large GPU.

    That is at most 99 KiB, which any GPU since sm_80 gives to a block.
    """
    return next(each for each in CONFIGS if shared_bytes(head_dim, each) <= MOST_SHARED_BYTES)


@cuda.jit(device=True)
def stage_packets(tile, at, pitch, sources, rows, array):
    """Bring rows of a matrix into shared memory, 16 bytes at a time; zeros for no row (-1)."""
    width = ptx.items16(array)
    packets = array.shape[1] // width
    for i in range(cuda.threadIdx.x, rows * packets, THREADS):
        row, column = i // packets, i % packets * width
        values = ptx.zeros16(array)
        if sources[row] >= 0:
            values = ptx.load16(array, sources[row] * array.shape[1] + column)
        for e in range(0, width, QUAD):
            quad = values[e], values[e + 1], values[e + 2], values[e + 3]
            ptx.store16(tile, at + row * pitch + column + e, quad)


@cuda.jit(device=True)
def stage_elements(tile, at, pitch, sources, rows, array):
    """Do the same with rows of any length that begin anywhere."""
    columns = (array.shape[1] + QUAD - 1) // QUAD * QUAD
    for i in range(cuda.threadIdx.x, rows * columns, THREADS):
        row, column = i // columns, i % columns
        value = float32(0)
        if sources[row] >= 0 and column < array.shape[1]:
            value = ptx.to_float(array[sources[row], column])
        tile[at + row * pitch + column] = value


@cuda.jit(device=True)
def clear(tops, sums, total):
    """Begin a row: nothing seen, nothing summed."""
    for i in range(total.shape[0]):
        tops[i], sums[i] = MINUS_INFINITY, float32(0)
        for c in range(total.shape[1]):
            for e in range(QUAD):
                total[i, c, e] = float32(0)


@cuda.jit(device=True)
def set_scores(tile, q_at, k_at, pitch, columns, scores, part):
    """Multiply a thread's rows by its keys, four components at a time."""
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            scores[i, j] = float32(0)
    for d in range(0, columns, QUAD):
        for i in range(part.shape[0]):
            quad = ptx.load16(tile, q_at + i * DOWN * pitch + d)
            part[i, 0], part[i, 1], part[i, 2], part[i, 3] = quad
        for j in range(scores.shape[1]):
            k0, k1, k2, k3 = ptx.load16(tile, k_at + j * ACROSS * pitch + d)
            for i in range(part.shape[0]):
                scores[i, j] += part[i, 0] * k0
                scores[i, j] += part[i, 1] * k1
                scores[i, j] += part[i, 2] * k2
                scores[i, j] += part[i, 3] * k3


@cuda.jit(device=True)
def add_values(tile, p_at, p_pitch, v_at, pitch, keys, total, part):
    """Add powers times values to a thread's outputs, four keys at a time."""
    for t in range(0, keys, QUAD):
        for i in range(part.shape[0]):
            quad = ptx.load16(tile, p_at + i * DOWN * p_pitch + t)
            part[i, 0], part[i, 1], part[i, 2], part[i, 3] = quad
        for u in range(QUAD):
            for c in range(total.shape[1]):
                v0, v1, v2, v3 = ptx.load16(tile, v_at + (t + u) * pitch + c * ACROSS * QUAD)
                for i in range(part.shape[0]):
                    total[i, c, 0] += part[i, u] * v0
                    total[i, c, 1] += part[i, u] * v1
                    total[i, c, 2] += part[i, u] * v2
                    total[i, c, 3] += part[i, u] * v3


@cuda.jit(device=True)
def scale_and_hide(scores, scale, positions, first_key, window, all_seen):
    """Scale, and take out what a query does not see: later keys, and those before its window.

    Only the first and the last tiles of a walk hold such keys. The product is rounded before
    anything is subtracted from it; see :func:`~llm_numba.kernels.softmax_logits.masked_logit`.
    """
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            scores[i, j] = libdevice.fmul_rn(scores[i, j], scale)
    if not all_seen:
        for j in range(scores.shape[1]):
            key = first_key + j * ACROSS
            for i in range(scores.shape[0]):
                if key > positions[i] or key <= positions[i] - window:
                    scores[i, j] = MINUS_INFINITY


@cuda.jit(device=True)
def online_softmax(scores, tops, sums, total, tile, p_at, p_pitch):
    """Turn scores into powers relative to the largest of the row so far, and put them in p_tile."""
    for i in range(scores.shape[0]):
        top = tops[i]
        for j in range(scores.shape[1]):
            top = max(top, scores[i, j])
        top = larger_of_row(top)
        base = reference_point(top)
        factor = ptx.exp2(tops[i] - base)
        tops[i] = top
        sums[i] *= factor
        for c in range(total.shape[1]):
            for e in range(QUAD):
                total[i, c, e] *= factor
        for j in range(scores.shape[1]):
            power = ptx.exp2(scores[i, j] - base)
            sums[i] += power
            tile[p_at + i * DOWN * p_pitch + j * ACROSS] = power


@cuda.jit(device=True)
def larger_of_row(value):
    """Find the largest value of the 16 threads of a row, which are every other lane of a warp."""
    for distance in (16, 8, 4, 2):
        value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def sum_of_row(value):
    """Add the values of the 16 threads of a row."""
    for distance in (16, 8, 4, 2):
        value = ptx.add(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def name_queries(sources, rows, start, first, last, kv_heads, head, group):
    """Write down which row of q each row of the tile is; -1 beyond the last."""
    for row in range(cuda.threadIdx.x, rows, THREADS):
        pair = first + row
        source = ((start + pair // group) * kv_heads + head) * group + pair % group
        sources[row] = source if pair <= last else -1


@cuda.jit(device=True)
def name_keys(
    sources, keys, first_key, lowest, newest, block_tables, sequence, block_size, kv_heads, head
):  # fmt: skip
    """Write down which row of the caches each key of the tile is; -1 if no query sees it."""
    for key in range(cuda.threadIdx.x, keys, THREADS):
        position = first_key + key
        source = -1
        if lowest <= position and position <= newest:
            slot = slot_of(block_tables, sequence, position, block_size)
            source = slot * kv_heads + head
        sources[key] = source


@cuda.jit(device=True)
def store_outputs(out, total, sums, sources, x, y):
    """Divide each output by its row's sum, and round it."""
    for i in range(total.shape[0]):
        inverse = inverse_or_one(sum_of_row(sums[i]))
        row = sources[y + i * DOWN]
        for c in range(total.shape[1]):
            for e in range(QUAD):
                column = (x + c * ACROSS) * QUAD + e
                if row >= 0 and column < out.shape[1]:
                    out[row, column] = ptx.from_float(out, total[i, c, e] * inverse)


@functools.cache
def register_tile_kernel(head_dim: int, config: Config, packets: bool) -> Any:
    """Make the kernel for a head dim and tiles.

    Parameters
    ----------
    head_dim : int
        D.
    config : Config
    packets : bool
        Whether rows are made of whole packets of 16 bytes, on 16-byte boundaries.

    Returns
    -------
    dispatcher
    """
    ROWS, KEYS = config
    PITCH, P_PITCH = tile_pitch(head_dim), power_pitch(KEYS)
    COLUMNS = -(-head_dim // QUAD) * QUAD
    KV_TILE = ROWS * PITCH
    P_TILE = KV_TILE + KEYS * PITCH
    QUERIES, SCORES = ROWS // DOWN, KEYS // ACROSS
    QUADS = -(-head_dim // (ACROSS * QUAD))
    stage = stage_packets if packets else stage_elements

    @cuda.jit(launch_bounds=(THREADS, 2))
    def attention_register_tile(
        q, k_cache, v_cache, block_tables, query_starts, context_lens, group, block_size, scale,
        window, out,
    ):  # fmt: skip
        """Walk over the keys that a tile of queries sees.

        All matrices are seen as rows of D: row (n G + g) R + r of q, slot * G + g of the caches.
        """
        tile = cuda.shared.array(0, float32)
        queries = cuda.shared.array(ROWS, int32)
        slots = cuda.shared.array(KEYS, int32)
        positions = cuda.local.array(QUERIES, int32)
        tops = cuda.local.array(QUERIES, float32)
        sums = cuda.local.array(QUERIES, float32)
        scores = cuda.local.array((QUERIES, SCORES), float32)
        total = cuda.local.array((QUERIES, QUADS, QUAD), float32)
        part = cuda.local.array((QUERIES, QUAD), float32)
        head, kv_heads = cuda.blockIdx.y, cuda.gridDim.y
        x, y = (cuda.threadIdx.x & 31) >> 1, (cuda.threadIdx.x >> 5) * 2 + (cuda.threadIdx.x & 1)

        number = cuda.gridDim.x - 1 - cuda.blockIdx.x  # those with the most keys begin first
        sequence = sequence_of_tile(query_starts, number, group, ROWS)
        start, stop = query_starts[sequence], query_starts[sequence + 1]
        first = (number - first_tile_of(query_starts, sequence, group, ROWS)) * ROWS
        last = min(first + ROWS, (stop - start) * group) - 1
        if last < first:
            return
        past = context_lens[sequence] - (stop - start)
        oldest, newest = past + first // group, past + last // group
        lowest = max(0, oldest - window + 1)

        name_queries(queries, ROWS, start, first, last, kv_heads, head, group)
        clear(tops, sums, total)
        for i in range(QUERIES):
            positions[i] = past + min(first + y + i * DOWN, last) // group - x
        cuda.syncthreads()
        stage(tile, 0, PITCH, queries, ROWS, q)
        for first_key in range(lowest // KEYS * KEYS, newest + 1, KEYS):
            cuda.syncthreads()  # everybody has done with the tile before
            name_keys(
                slots, KEYS, first_key, lowest, newest, block_tables, sequence, block_size,
                kv_heads, head,
            )  # fmt: skip
            cuda.syncthreads()
            stage(tile, KV_TILE, PITCH, slots, KEYS, k_cache)
            cuda.syncthreads()
            set_scores(tile, y * PITCH, KV_TILE + x * PITCH, PITCH, COLUMNS, scores, part)
            all_seen = first_key + KEYS - 1 <= oldest and first_key > newest - window
            scale_and_hide(scores, scale, positions, first_key, window, all_seen)
            online_softmax(scores, tops, sums, total, tile, P_TILE + y * P_PITCH + x, P_PITCH)
            cuda.syncthreads()  # the keys are read, and may go
            stage(tile, KV_TILE, PITCH, slots, KEYS, v_cache)
            cuda.syncthreads()
            add_values(
                tile, P_TILE + y * P_PITCH, P_PITCH, KV_TILE + x * QUAD, PITCH, KEYS, total, part
            )
        store_outputs(out, total, sums, queries, x, y)

    return attention_register_tile
