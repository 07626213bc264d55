"""Where a block of an attention kernel finds its queries, and where its keys lie.

The tokens of all sequences stand one after the other: sequence b owns rows ``query_starts[b]`` to
``query_starts[b + 1]`` of q, and its newest ``query_starts[b + 1] - query_starts[b]`` positions are
theirs. No host knows these numbers when it launches, so that one CUDA graph serves many batches.
The grid is as large as N and B alone make it necessary, and a block that finds nothing leaves.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, int64, uint32


class Places(NamedTuple):
    """Where a kernel finds what it computes with.

    Attributes
    ----------
    share_of
        ``share_of(query_starts, context_lens, kv_heads, group, window, queries, keys)`` returns
        what a block is about; see :func:`placing`.
    slot_of
        ``slot_of(block_tables, sequence, position, block_size)`` returns the row of the cache, seen
        as [num_blocks * block_size, G, D], of a position.
    """

    share_of: Any
    slot_of: Any


@cuda.jit(device=True)
def divided(number, divisor):
    """Return quotient and remainder of two that are not negative and fit in 32 bits.

    Python's integers are of 64 bits in a kernel, and a GPU divides those in a hundred instructions.
    The quotient is signed again: an unsigned and a signed one of 64 bits meet in float64.
    """
    quotient = int64(uint32(number) // uint32(divisor))
    return quotient, number - quotient * divisor


@cuda.jit(device=True)
def first_tile_of(query_starts, sequence, group, rows):
    """Return the number of the first tile that a sequence may use.

    With n tokens a sequence has n R rows and needs ceil(n R / rows) tiles. Counting those of all
    sequences before it would take a loop over them. Rounding its start down and adding one for
    each sequence before gives as many or one more, by one division.

    Parameters
    ----------
    query_starts : int32 [B + 1]
    sequence : int
    group : int
        R, query heads that share a KV head.
    rows : int
        Of a tile.
    """
    return query_starts[sequence] * group // rows + sequence


@cuda.jit(device=True)
def sequence_of_tile(query_starts, tile, group, rows):
    """Find the sequence of a tile by halving: the last whose first tile is not beyond it."""
    low, high = 0, query_starts.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if first_tile_of(query_starts, middle, group, rows) <= tile:
            low = middle
        else:
            high = middle
    return low


@cuda.jit(device=True)
def place_of_paged(query_starts, context_lens, tile, group, rows, queries, keys):
    """Find out what a tile of a batch of sequences is about.

    Returns
    -------
    sequence : int
    start : int
        The sequence's first row of q.
    count : int
        Its queries.
    past : int
        The position of the first of them.
    first : int
        The tile's first pair of a query and a head; beyond ``count * group`` if it has none.
    """
    sequence = sequence_of_tile(query_starts, tile, group, rows)
    start = query_starts[sequence]
    count = query_starts[sequence + 1] - start
    first = (tile - first_tile_of(query_starts, sequence, group, rows)) * rows
    return sequence, start, count, context_lens[sequence] - count, first


@cuda.jit(device=True)
def place_of_whole(query_starts, context_lens, tile, group, rows, queries, keys):
    """Return what :func:`place_of_paged` does for one sequence of contiguous keys and values."""
    return 0, 0, queries, keys - queries, tile * rows


@cuda.jit(device=True)
def slot_of_paged(block_tables, sequence, position, block_size):
    """Return the row of the cache, seen as [num_blocks * block_size, G, D], of a position."""
    column, row = divided(position, block_size)
    return block_tables[sequence, column] * block_size + row


@cuda.jit(device=True)
def slot_of_whole(block_tables, sequence, position, block_size):
    """Return the row of a position where all lie in order."""
    return position


@functools.cache
def placing(rows: int, paged: bool) -> Places:
    """Make the device functions for tiles of so many rows.

    Parameters
    ----------
    rows : int
    paged : bool
        Whether there is a batch of sequences whose keys lie in blocks; else one, contiguous.

    Returns
    -------
    Places
        ``share_of`` returns a tuple: the KV head; the sequence, its first row of q, and the
        position of its first query; the tile's first and last pair of a query and a head; and three
        positions: of the tile's oldest and newest query, and the lowest that one of them sees. Of a
        tile of no queries the last pair comes before the first.
    """
    place_of = place_of_paged if paged else place_of_whole

    @cuda.jit(device=True)
    def share_of(query_starts, context_lens, kv_heads, group, window, queries, keys):
        """Find out what this block is about."""
        tile, head = divided(cuda.blockIdx.x, kv_heads)
        tile = cuda.gridDim.x // kv_heads - 1 - tile  # those with the most keys begin first
        sequence, start, count, past, first = place_of(
            query_starts, context_lens, tile, group, rows, queries, keys
        )
        last = min(first + rows, count * group) - 1
        oldest = past + divided(first, group)[0]
        newest = past + divided(max(last, 0), group)[0]
        lowest = max(0, oldest - window + 1)
        return head, sequence, start, past, first, last, oldest, newest, lowest

    return Places(share_of, slot_of_paged if paged else slot_of_whole)


@cuda.jit
def describe_whole(block_tables, query_starts, context_lens, queries, keys):
    """Describe one contiguous sequence as a batch of one whose blocks lie in order."""
    column = cuda.grid(1)
    if column < block_tables.shape[1]:
        block_tables[0, column] = column
    if column == 0:
        query_starts[0], query_starts[1] = 0, queries
        context_lens[0] = keys


def most_tiles(tokens: int, sequences: int, group: int, rows: int) -> int:
    """Return how many tiles are enough for any split of tokens among sequences.

    Parameters
    ----------
    tokens : int
        N.
    sequences : int
        B.
    group : int
        R, query heads that share a KV head.
    rows : int
        Of a tile.
    """
    return tokens * group // rows + sequences
