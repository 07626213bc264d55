r"""Fused attention, 32 scores a thread: what ordinary units make of a prompt.

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

from numba import cuda, float32, int32, uint32
from numba.cuda import libdevice

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_places import placing
from llm_numba.kernels.attention_staging import (
    QUAD,
    THREADS,
    fetch_nothing,
    fetch_packets,
    name_keys,
    name_queries,
    put_elements,
    put_packets,
    store_elements,
    store_packets,
)
from llm_numba.kernels.reduce import FULL_WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

ACROSS = 16
DOWN = THREADS // ACROSS


class Config(NamedTuple):
    """How a block divides its work.

    Attributes
    ----------
    rows : int
        Of a tile of queries; a multiple of 8.
    keys : int
        Of a tile of keys; a multiple of 16.
    blocks : int
        That the registers of an SM shall have room for.
    """

    rows: int
    keys: int
    blocks: int


CONFIGS = (Config(64, 64, 2), Config(64, 32, 2), Config(32, 32, 2))
MOST_SHARED_BYTES = 98 * 1024  # besides what is not dynamic


def tile_pitch(head_dim: int) -> int:
    """Return the words from row to row of q_tile and kv_tile: an odd number of 16 bytes.

    Then 8 neighbouring rows begin in 8 different groups of banks.
    """
    return (-(-head_dim // QUAD) | 1) * QUAD


def power_pitch(rows: int) -> int:
    """Return the words from key to key of p_tile: 4 neighbours fill the 32 banks."""
    return rows + 2 * QUAD


def shared_bytes(head_dim: int, config: Config) -> int:
    """Return the dynamic shared memory of a block."""
    tiles = (config.rows + config.keys) * tile_pitch(head_dim)
    return 4 * (tiles + config.keys * power_pitch(config.rows))


def config_for(head_dim: int) -> Config:
    """Return the first of :data:`CONFIGS` that leaves room for two blocks of a large GPU.

    That is at most 99 KiB, which any GPU since sm_80 gives to a block.
    """
    return next(each for each in CONFIGS if shared_bytes(head_dim, each) <= MOST_SHARED_BYTES)


@cuda.jit(device=True)
def row_of(i, y):
    """Return the row of the tile that is a thread's i-th: four neighbours, four 32 further on."""
    return y * QUAD + i // QUAD * DOWN * QUAD + i % QUAD


@cuda.jit(device=True)
def clear(tops, sums, total):
    """Begin a row: nothing seen, nothing summed."""
    for i in range(total.shape[0]):
        tops[i], sums[i] = MINUS_INFINITY, float32(0)
        for c in range(total.shape[1]):
            for e in range(QUAD):
                total[i, c, e] = float32(0)


@cuda.jit(device=True)
def add_products(tile, q_at, k_at, pitch, scores, part):
    """Add to a thread's scores what four components of queries and keys give."""
    for j in range(scores.shape[1]):
        quad = ptx.load16(tile, k_at + j * ACROSS * pitch)
        part[j, 0], part[j, 1], part[j, 2], part[j, 3] = quad
    for i in range(scores.shape[0]):
        q0, q1, q2, q3 = ptx.load16(tile, q_at + row_of(i, 0) * pitch)
        for j in range(scores.shape[1]):
            scores[i, j] += q0 * part[j, 0]
            scores[i, j] += q1 * part[j, 1]
            scores[i, j] += q2 * part[j, 2]
            scores[i, j] += q3 * part[j, 3]


@cuda.jit(device=True)
def set_scores(tile, q_at, k_at, pitch, columns, scores, part):
    """Multiply a thread's rows by its keys.

    Two calls a turn, as the compiler would not unroll so large a loop: its counting would cost a
    tenth of the time.
    """
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            scores[i, j] = float32(0)
    for d in range(0, columns, 2 * QUAD):
        add_products(tile, q_at + d, k_at + d, pitch, scores, part)
        add_products(tile, q_at + d + QUAD, k_at + d + QUAD, pitch, scores, part)


@cuda.jit(device=True)
def add_value(tile, p_at, v_at, columns, x, total):
    """Add one key's powers times its value to a thread's outputs, four rows by four components."""
    for i in range(0, total.shape[0], QUAD):
        p0, p1, p2, p3 = ptx.load16(tile, p_at + i * DOWN)
        for c in range(total.shape[1]):
            # A thread beyond the last component computes what is never stored.
            values = ptx.load16(tile, v_at + min((x + c * ACROSS) * QUAD, columns - QUAD))
            for e in range(QUAD):
                total[i, c, e] += p0 * values[e]
                total[i + 1, c, e] += p1 * values[e]
                total[i + 2, c, e] += p2 * values[e]
                total[i + 3, c, e] += p3 * values[e]


@cuda.jit(device=True)
def add_values(tile, p_at, p_pitch, v_at, pitch, columns, keys, x, total):
    """Add powers times values to a thread's outputs."""
    for t in range(0, keys, 4):
        add_value(tile, p_at + t * p_pitch, v_at + t * pitch, columns, x, total)
        add_value(tile, p_at + (t + 1) * p_pitch, v_at + (t + 1) * pitch, columns, x, total)
        add_value(tile, p_at + (t + 2) * p_pitch, v_at + (t + 2) * pitch, columns, x, total)
        add_value(tile, p_at + (t + 3) * p_pitch, v_at + (t + 3) * pitch, columns, x, total)


@cuda.jit(device=True)
def scale_and_hide(scores, scale, positions, key, y, window, all_seen):
    """Scale, and take out what a query does not see: later keys, and those before its window.

    Only the first and the last tiles of a walk hold such keys. The product is rounded before
    anything is subtracted from it; see :func:`~llm_numba.kernels.softmax_logits.masked_logit`.
    """
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            scores[i, j] = libdevice.fmul_rn(scores[i, j], scale)
    if not all_seen:
        for i in range(scores.shape[0]):
            after = positions[row_of(i, y)] - key
            for j in range(scores.shape[1]):
                if after < j * ACROSS or after >= j * ACROSS + window:
                    scores[i, j] = MINUS_INFINITY


@cuda.jit(device=True)
def online_softmax(scores, tops, sums, total):
    """Turn scores into powers relative to the largest of the row so far."""
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
            scores[i, j] = ptx.exp2(scores[i, j] - base)
            sums[i] += scores[i, j]


@cuda.jit(device=True)
def put_powers(tile, p_at, p_pitch, scores):
    """Store powers in shared memory, keys first: four rows of a key at a time."""
    for j in range(scores.shape[1]):
        for i in range(0, scores.shape[0], QUAD):
            quad = scores[i, j], scores[i + 1, j], scores[i + 2, j], scores[i + 3, j]
            ptx.store16(tile, p_at + j * ACROSS * p_pitch + i * DOWN, quad)


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
def put_outputs(tile, pitch, columns, total, sums, x, y):
    """Divide each output by its row's sum, and put it where the queries were."""
    for i in range(total.shape[0]):
        inverse = inverse_or_one(sum_of_row(sums[i]))
        for c in range(total.shape[1]):
            column = (x + c * ACROSS) * QUAD
            if column < columns:
                quad = (
                    total[i, c, 0] * inverse, total[i, c, 1] * inverse,
                    total[i, c, 2] * inverse, total[i, c, 3] * inverse,
                )  # fmt: skip
                ptx.store16(tile, row_of(i, y) * pitch + column, quad)


@functools.cache
def register_tile_kernel(head_dim: int, config: Config, packets: bool, paged: bool) -> Any:
    """Make the kernel for a head dim and tiles.

    Parameters
    ----------
    head_dim : int
        D.
    config : Config
    packets : bool
        Whether rows are made of whole packets of 16 bytes, on 16-byte boundaries.
    paged : bool
        Whether there is a batch of sequences whose keys lie in blocks; else one, contiguous.

    Returns
    -------
    dispatcher
    """
    ROWS, KEYS, BLOCKS = config
    PITCH, P_PITCH = tile_pitch(head_dim), power_pitch(ROWS)
    COLUMNS = -(-head_dim // QUAD) * QUAD
    KV_TILE = ROWS * PITCH
    P_TILE = KV_TILE + KEYS * PITCH
    QUERIES, SCORES = ROWS // DOWN, KEYS // ACROSS
    QUADS = -(-head_dim // (ACROSS * QUAD))
    HELD = max(ROWS, KEYS) * 8 // THREADS * -(-head_dim // (8 * QUAD))
    share_of, slot_of = placing(ROWS, paged)
    fetch = fetch_packets if packets else fetch_nothing
    put = put_packets if packets else put_elements
    store = store_packets if packets else store_elements

    @cuda.jit(launch_bounds=(THREADS, BLOCKS))
    def attention_register_tile(
        q, k_cache, v_cache, block_tables, query_starts, context_lens, kv_heads, group, block_size,
        scale, window, out,
    ):  # fmt: skip
        """Walk over the keys that a tile of queries sees.

        All matrices are seen as rows of D: row (n G + g) R + r of q, slot * G + g of the caches.
        """
        tile = cuda.shared.array(0, float32)
        queries = cuda.shared.array(ROWS, int32)
        positions = cuda.shared.array(ROWS, int32)
        slots = cuda.shared.array((2, KEYS), int32)
        tops = cuda.local.array(QUERIES, float32)
        sums = cuda.local.array(QUERIES, float32)
        scores = cuda.local.array((QUERIES, SCORES), float32)
        total = cuda.local.array((QUERIES, QUADS, QUAD), float32)
        part = cuda.local.array((SCORES, QUAD), float32)
        held = cuda.local.array((HELD, QUAD), uint32)
        x, y = (cuda.threadIdx.x & 31) >> 1, (cuda.threadIdx.x >> 5) * 2 + (cuda.threadIdx.x & 1)

        head, sequence, start, past, first, last, oldest, newest, lowest = share_of(
            query_starts, context_lens, kv_heads, group, window,
            q.shape[0] // (kv_heads * group), k_cache.shape[0] // kv_heads,
        )  # fmt: skip
        if last < first:
            return

        name_queries(queries, positions, ROWS, start, past, first, last, kv_heads, head, group)
        clear(tops, sums, total)
        first_key, turn = lowest // KEYS * KEYS, 0
        where = (block_tables, sequence, block_size, kv_heads, head)
        name_keys(slots[turn], KEYS, first_key, lowest, newest, slot_of, where)
        cuda.syncthreads()
        fetch(q, head_dim, queries, ROWS, held)
        put(tile, 0, PITCH, q, head_dim, queries, ROWS, held)
        fetch(k_cache, head_dim, slots[turn], KEYS, held)
        while first_key <= newest:
            cuda.syncthreads()  # everybody has done with the values before
            put(tile, KV_TILE, PITCH, k_cache, head_dim, slots[turn], KEYS, held)
            cuda.syncthreads()
            fetch(v_cache, head_dim, slots[turn], KEYS, held)
            name_keys(slots[1 - turn], KEYS, first_key + KEYS, lowest, newest, slot_of, where)
            set_scores(tile, y * QUAD * PITCH, KV_TILE + x * PITCH, PITCH, COLUMNS, scores, part)
            all_seen = first_key + KEYS - 1 <= oldest and first_key > newest - window
            scale_and_hide(scores, scale, positions, first_key + x, y, window, all_seen)
            online_softmax(scores, tops, sums, total)
            put_powers(tile, P_TILE + x * P_PITCH + y * QUAD, P_PITCH, scores)
            cuda.syncthreads()  # everybody has done with the keys
            put(tile, KV_TILE, PITCH, v_cache, head_dim, slots[turn], KEYS, held)
            cuda.syncthreads()
            first_key, turn = first_key + KEYS, 1 - turn
            fetch(k_cache, head_dim, slots[turn], KEYS, held)
            add_values(tile, P_TILE + y * QUAD, P_PITCH, KV_TILE, PITCH, COLUMNS, KEYS, x, total)
        cuda.syncthreads()  # without a key to see, the queries may still be on their way
        put_outputs(tile, PITCH, COLUMNS, total, sums, x, y)
        cuda.syncthreads()
        store(tile, PITCH, out, head_dim, queries, ROWS)

    return attention_register_tile
