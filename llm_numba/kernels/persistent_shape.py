"""What the persistent kernel knows when it is compiled: the model's shape, and who streams what.

All matrices of a model lie one after the other in one array, the *arena*, each [N, K] row by row:

::

    | embedding, LM head | layer 0: qkv | out | gate, up | down | layer 1: qkv | ... |

A token reads all of it once (of the embedding a row). Each of the resident blocks has a share of
the rows of every matrix, and each of its warps every 8th row of that. A row is read in *units* of
some packets of 16 bytes a lane. Who reads what is known beforehand: so a warp asks for the first
units of a matrix before there is a vector to multiply them by.
"""

import math
from typing import NamedTuple

WARP = 32
# What a multiprocessor gets of the memory's bandwidth while it waits for an answer.
_BYTES_A_LOOK = 16 * 1024


class Matrix(NamedTuple):
    """A matrix as the blocks see it.

    Attributes
    ----------
    rows : int
        N, that results have: a gate and its up are one row of the result.
    columns : int
        K.
    copies : int
        Rows of weights for a row of the result: 2 with a gate, else 1.
    """

    rows: int
    columns: int
    copies: int = 1


class Shape(NamedTuple):
    """A model of the Llama family, and the grid that runs it.

    Attributes
    ----------
    hidden, inner, layers, heads, kv_heads, head_dim, vocabulary : int
        E, F, L, H, G, D, V.
    block_size : int
        Positions in a block of the KV cache.
    width : int
        Numbers in 16 bytes.
    blocks : int
        Resident blocks: one an SM.
    warps : int
        Of a block.
    packets : int
        Of 16 bytes, that a lane has of a unit.
    flight : int
        Units of a warp on their way, while it uses another.
    slots : int
        Units in the ring of a warp: more than `flight`.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    block_size: int
    width: int
    blocks: int
    warps: int = 8
    packets: int = 4
    flight: int = 2
    slots: int = 10

    @property
    def unit(self) -> int:
        """Numbers in a unit."""
        return self.packets * WARP * self.width

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Those of a layer: qkv, out, gate and up, down."""
        E, F, D = self.hidden, self.inner, self.head_dim
        return (
            Matrix((self.heads + 2 * self.kv_heads) * D, E),
            Matrix(E, self.heads * D),
            Matrix(F, E, 2),
            Matrix(E, F),
        )

    @property
    def head(self) -> Matrix:
        """The LM head."""
        return Matrix(self.vocabulary, self.hidden)

    @property
    def places(self) -> tuple[int, ...]:
        """Where the matrices of a layer begin, from where the layer does."""
        sizes = [m.rows * m.copies * m.columns for m in self.matrices]
        return tuple(sum(sizes[:i]) for i in range(len(sizes)))

    @property
    def layer_size(self) -> int:
        """Weights of a layer in the arena."""
        return sum(m.rows * m.copies * m.columns for m in self.matrices)

    @property
    def arena_size(self) -> int:
        """Weights in the arena."""
        return self.vocabulary * self.hidden + self.layers * self.layer_size

    @property
    def pieces(self) -> int:
        """Pieces of a context that blocks share."""
        return max(1, self.blocks // self.kv_heads)

    @property
    def flags(self) -> int:
        """Counters that blocks meet at: one for each product, one for each attention, two more."""
        return 5 * self.layers + 2

    @property
    def ring_bytes(self) -> int:
        """Shared memory of the rings of a block."""
        return self.warps * self.slots * self.packets * WARP * 16

    @property
    def looks(self) -> int:
        """Looks at a counter for each unit that is asked for meanwhile, and comes in that time."""
        return max(1, self.ring_bytes // self.slots // _BYTES_A_LOOK)

    @property
    def room(self) -> int:
        """Numbers of the longest vector that a product takes, or that a warp's parts come to."""
        group = self.heads // self.kv_heads
        return max(*(m.columns for m in self.matrices), 4 * group * self.head_dim)

    def fitted(self, shared_bytes: int) -> "Shape | None":
        """Return the shape with as many slots as shared memory has room for, up to its own.

        Where there is no room for two, units are smaller.

        Parameters
        ----------
        shared_bytes : int
            Of a block.

        Returns
        -------
        Shape or None
            None if there is no room for two slots of the smallest units.
        """
        group = self.heads // self.kv_heads
        # Queries, the new key and value; two numbers a part; what the block's sums go through.
        others = (group + 2) * self.head_dim * 16 // self.width
        others += 8 * group * max(self.pieces, self.warps * WARP // 8) + 1024
        slots = (shared_bytes - 4 * self.room - others) // (self.ring_bytes // self.slots)
        if slots > 1:
            slots = min(slots, self.slots)
            return self._replace(slots=slots, flight=min(self.flight, slots - 1))
        smaller = self._replace(packets=self.packets // 2)
        return smaller.fitted(shared_bytes) if smaller.packets else None

    def chunks(self, matrix: Matrix) -> int:
        """Return in how many units a row is read."""
        return math.ceil(matrix.columns / self.unit)

    def turns(self, matrix: Matrix) -> int:
        """Return how many rows of the result a warp has, at most."""
        return math.ceil(math.ceil(matrix.rows / self.blocks) / self.warps)

    def units(self, matrix: Matrix) -> int:
        """Return how many units a warp has of a matrix, some of which may not be there."""
        return self.turns(matrix) * matrix.copies * self.chunks(matrix)
