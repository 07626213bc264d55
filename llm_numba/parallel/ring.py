"""A long sum around the ring, in pieces that do not wait for each other.

Round by round, as :func:`.algorithms.reduce_around` and :func:`.algorithms.gather_around` do it, a
link stands idle while a round's numbers are added, and while the host begins the next one. Here the
array is cut once more, and each piece goes around as if it were alone: it sets out on its next
round as soon as it has been added. With two ranks and two pieces::

    link      | piece 0 | piece 1 |  sum 0  |  sum 1  |
    GPU                 | add 0   | add 1
    host      begin     ^ begin   ^ begin

The GPU needs two copies more than the sum itself, and makes both while numbers travel: this rank's
own piece is put beside the one that comes, so that one kernel adds both; and the whole sum is put
where it belongs while it is sent from where it was made.
"""

from llm_numba import ops
from llm_numba.parallel.algorithms import cut
from llm_numba.parallel.communicator import Communicator, Transfer
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array, by_host, empty

# What takes much longer to send than to begin, on links of hundreds of GB/s.
PIECE_BYTES = 16 << 20
# More hide no more.
_MOST_PIECES = 4


@by_host
def all_reduce_around(comm: Communicator, x: Array, op: Reduction) -> None:
    """Add up an array over all ranks: each sum visits all, and then goes around once more.

    Part r is added from the next rank's on, around the ring, as by ``reduce_around``.

    Parameters
    ----------
    comm : Communicator
    x : number array
        In place.
    op : {"sum", "max"}
    """
    parts = cut(x, comm.size)
    count = min(_MOST_PIECES, max(1, parts[0].nbytes // PIECE_BYTES))
    cuts = zip(*(cut(part, count) for part in parts), strict=True)
    pieces = [_Piece(comm, list(views), op) for views in cuts]
    for piece in pieces:
        piece.begin(0)
    turns = 2 * (comm.size - 1)
    for turn in range(turns):
        for piece in pieces:
            piece.end(turn)
            if turn + 1 < turns:
                piece.begin(turn + 1)


class _Piece:
    """The same piece of each part; one of them comes, and one goes, in each turn."""

    def __init__(self, comm: Communicator, views: list[Array], op: Reduction) -> None:
        self._comm, self._views, self._op = comm, views, op
        self._travelling = self._view(1)
        self._both: Array | None = None
        self._transfers: list[Transfer] = []

    def begin(self, turn: int) -> None:
        adds = self._comm.size - 1
        if turn < adds:
            own = self._view(turn + 2)
            self._both = empty((2, own.size), own.dtype, like=own)
            self._exchange(self._both[0])
            self._both[1] = own
            return
        out = self._view(turn - adds + 1)
        self._exchange(out)
        if turn == adds:
            self._view(0)[...] = self._travelling
        self._travelling = out

    def end(self, turn: int) -> None:
        for transfer in self._transfers:
            transfer.wait()
        if turn < self._comm.size - 1:
            self._travelling = ops.combine_parts(self._both, self._op)

    def _view(self, back: int) -> Array:
        """Return the piece of the part that ends so many ranks before this one."""
        return self._views[(self._comm.rank - back) % self._comm.size]

    def _exchange(self, out: Array) -> None:
        comm = self._comm
        self._transfers = [
            comm.start_receive(out, (comm.rank - 1) % comm.size),
            comm.start_send(self._travelling, (comm.rank + 1) % comm.size),
        ]
