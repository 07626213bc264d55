r"""What a warp does with a tile of keys and values, 16 bytes a lane.

A position's keys of one KV head are D numbers side by side: for D = 128 in bfloat16, 16 packets of
16 bytes. So 16 lanes take a position, two such *rows of lanes* make a warp, and each lane takes its
packet of several positions. Here are 4 loads, for W warps in a block:

::

    lane          0    1    2   ...  15 | 16   17   18   ...  31
    load 0        position t            | position t + 1             a tile of a warp:
    load 1                 t + 2        |          t + 3             8 positions, 2 KiB of keys
    load 2                 t + 4        |          t + 5             and 2 KiB of values; its next
    load 3                 t + 6        |          t + 7             tile begins at t + 8 W

A lane now has 8 of the 128 products of a score, for each of its positions and query heads: 4
positions x 4 heads are 16 sums over 16 lanes. A butterfly for each would take 64 shuffles. An
*exchange* takes 15 for all of them, and leaves each lane with one score: two lanes give each other
the half that they do not keep.

::

    distance 8    16 sums -> 8       lanes 0..7 keep sums 0..7, lanes 8..15 keep sums 8..15
             4     8      -> 4
             2     4      -> 2
             1     2      -> 1       lane i has sum i: of head i // 4, of load i % 4

So each power is computed once, by one lane. For the values nothing is added across lanes: each
lane mixes its own 8 columns, and shuffles bring it the weights. A row of lanes is a part of its own
(:mod:`~llm_numba.kernels.paged_decode_parts`) until the end of the context.

Lanes without a packet (D = 96 has 12 of 16) repeat the last one against a query of zeros. Positions
outside of the context repeat its first or last, with weight 0: nothing else is touched.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.exchange import exchange
from llm_numba.kernels.paged_decode_parts import WARP, row_of
from llm_numba.kernels.reduce import FULL_WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import reference_point


class Layout(NamedTuple):
    """Who takes what, known when a kernel is compiled.

    Attributes
    ----------
    head_dim : int
        D, a multiple of `width`, at most 256.
    block_size : int
        Positions in a block of the cache.
    width : int
        Numbers in a packet.
    heads : int
        Query heads that share what is read: 1, 2, 4 or 8.
    loads : int
        Positions of a tile that a lane takes: 1, 2, 4 or 8.
    warps : int
        Of a block.
    """

    head_dim: int
    block_size: int
    width: int
    heads: int
    loads: int
    warps: int

    @property
    def packets(self) -> int:
        """Packets of a position."""
        return self.head_dim // self.width

    @property
    def lanes(self) -> int:
        """Lanes that take a position: a power of two, from the 8 that 8 heads need up to 32."""
        return min(WARP, max(8, 1 << (self.packets - 1).bit_length()))

    @property
    def turns(self) -> int:
        """Packets of a position in a lane: 2 for more than 512 bytes, else 1."""
        return -(-self.packets // self.lanes)

    @property
    def rows(self) -> int:
        """Rows of lanes in a warp."""
        return WARP // self.lanes

    @property
    def tile(self) -> int:
        """Positions of a warp's tile."""
        return self.rows * self.loads

    @property
    def parts(self) -> int:
        """Rows of lanes in a block."""
        return self.warps * self.rows


class LaneFunctions(NamedTuple):
    """The device functions of one layout; all lanes of a warp call each together.

    Attributes
    ----------
    hold_queries
        ``(q, scale, place, column, query)``: load the lane's part of each query, scaled.
    locate
        ``(block_tables, num_kv_heads, place, tile, row, begin, end, starts)``: find where the
        keys of the lane's positions begin, in elements of the cache.
    score
        ``(keys, query, scores, j, turn)``: add a packet's products to the sums of load j.
    weigh
        ``(scores, tile, row, column, begin, end, maximum, total, mix)``: turn sums into weights;
        returns maximum and total.
    mix_in
        ``(values, scores, mix, row, j, turn)``: add a packet of values, weighted.
    leave
        ``(part, column, maximum, total, mix, maxima, sums, mixed)``: store the part of a row of
        lanes in shared memory.
    """

    hold_queries: Any
    locate: Any
    score: Any
    weigh: Any
    mix_in: Any
    leave: Any


@functools.cache
def lane_functions(layout):
    """Make the device functions of a layout.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    LaneFunctions
    """
    head_dim, block_size, width, heads, loads, _ = layout
    lanes, rows, sums_of_lane = layout.lanes, layout.rows, heads * loads
    packets, turns = layout.packets, layout.turns
    columns = turns * width
    # Of the scores that an exchange leaves: how many in a lane, and how many lanes have the same.
    own, copies = max(1, sums_of_lane // lanes), max(1, lanes // sums_of_lane)
    lanes_of_head = lanes // heads
    add_up = exchange(sums_of_lane, lanes)
    tile_in_block = block_size % layout.tile == 0

    @cuda.jit(device=True)
    def hold_queries(q, scale, place, column, query):
        """Take the group's queries into registers, scaled; zeros for absent heads."""
        sequence, _, first_head, here = place
        first = (sequence * q.shape[1] + first_head) * head_dim
        for h in range(heads):
            for turn in range(turns):
                packet, to = column + turn * lanes, h * columns + turn * width
                for e in range(width):
                    query[to + e] = float32(0)
                if h < here and packet < packets:
                    values = ptx.load16(q, first + h * head_dim + packet * width)
                    for e in range(width):
                        query[to + e] = values[e] * scale

    @cuda.jit(device=True)
    def locate(block_tables, num_kv_heads, place, tile, row, begin, end, starts):
        """Find where the key of each load begins; a position outside takes the nearest."""
        sequence, kv_head = place[0], uint32(place[1])
        if tile_in_block:  # one look into the table for all, and offsets of 32 bits
            first = row_of(block_tables, block_size, sequence, tile)
            first = (first * num_kv_heads + kv_head) * head_dim
            stride = uint32(num_kv_heads * head_dim)
            lowest, highest = uint32(max(begin - tile, 0)), uint32(end - 1 - tile)
            for j in range(loads):
                inner = max(lowest, min(uint32(j * rows + row), highest))
                starts[j] = first + uint64(inner) * stride
        else:
            for j in range(loads):
                position = max(begin, min(tile + j * rows + row, end - 1))
                there = row_of(block_tables, block_size, sequence, position)
                starts[j] = (there * num_kv_heads + kv_head) * head_dim

    @cuda.jit(device=True)
    def score(keys, query, scores, j, turn):
        """Multiply a packet of keys by the same packet of each query."""
        for h in range(heads):
            total = scores[h * loads + j]
            for e in range(width):
                total += query[h * columns + turn * width + e] * keys[e]
            scores[h * loads + j] = total

    @cuda.jit(device=True)
    def weigh(scores, tile, row, column, begin, end, maximum, total, mix):
        """Turn scores into weights by the online rule, and scale what was mixed before."""
        add_up(scores, column)
        highest = MINUS_INFINITY
        for i in range(own):
            load = (column // copies * own + i) % loads
            position = tile + load * rows + row
            if position < begin or position >= end:
                scores[i] = MINUS_INFINITY
            highest = max(highest, scores[i])
        distance = lanes_of_head // 2
        while distance > 0:
            highest = max(highest, cuda.shfl_xor_sync(FULL_WARP, highest, distance))
            distance //= 2
        larger = max(maximum, highest)
        base = reference_point(larger)
        factor = ptx.exp2(maximum - base)
        total *= factor
        for i in range(own):
            scores[i] = ptx.exp2(scores[i] - base)
            total += scores[i]
        # After the first tiles there is seldom a new maximum, and the factor is 1.
        if cuda.any_sync(FULL_WARP, larger > maximum):
            for h in range(heads):
                change = cuda.shfl_sync(FULL_WARP, factor, row * lanes + h * lanes_of_head)
                for i in range(columns):
                    mix[h * columns + i] *= change
        return larger, total

    @cuda.jit(device=True)
    def mix_in(values, scores, mix, row, j, turn):
        """Add a packet of values to the mix of each head, weighted."""
        for h in range(heads):
            n = h * loads + j
            weight = cuda.shfl_sync(FULL_WARP, scores[n % own], row * lanes + n // own * copies)
            for e in range(width):
                mix[h * columns + turn * width + e] += weight * values[e]

    @cuda.jit(device=True)
    def leave(part, column, maximum, total, mix, maxima, sums, mixed):
        """Store the part of a row of lanes: each head's maximum, sum and mix."""
        if column % copies != 0:
            total = float32(0)
        distance = lanes_of_head // 2
        while distance > 0:
            total += cuda.shfl_xor_sync(FULL_WARP, total, distance)
            distance //= 2
        if column % lanes_of_head == 0:
            maxima[part * heads + column // lanes_of_head] = maximum
            sums[part * heads + column // lanes_of_head] = total
        for h in range(heads):
            for i in range(columns):
                d = (column + i // width * lanes) * width + i % width
                if d < head_dim:
                    mixed[(part * heads + h) * head_dim + d] = mix[h * columns + i]

    return LaneFunctions(hold_queries, locate, score, weigh, mix_in, leave)
