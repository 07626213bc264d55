"""The path ``mpi``: messages alone, and sums of our own.

The collective operations of MPI add on the CPU, in an order that they choose, and know no
bfloat16. Its messages move bytes and do no more. So this path asks for messages only, and adds up
where the arrays lie, by :func:`llm_numba.ops.combine_parts`.
"""

from llm_numba.parallel import algorithms
from llm_numba.parallel.carrier import Carrier
from llm_numba.reference.rank_sums import Reduction
from llm_numba.runtime import Array

# An array of fewer bytes is not cut into parts: a round costs more than its bytes.
FEW_BYTES = 32 * 1024


class MessageCommunicator(Carrier):
    """Ranks that send each other messages and add up arrays themselves.

    Parameters
    ----------
    host : Communicator
        What sends the messages.
    """

    name = "mpi"

    def _all_reduce(self, x: Array, op: Reduction) -> None:
        if x.nbytes < FEW_BYTES:
            algorithms.all_reduce_by_doubling(self, x, op)
            return
        parts = algorithms.cut(x, self.size)
        if algorithms.is_short(x):
            parts[self.rank][...] = algorithms.reduce_at_once(self, parts, op)
        else:
            algorithms.reduce_in_place(self, parts, op)
        algorithms.gather_around(self, parts)

    def _all_gather(self, x: Array, out: Array) -> None:
        parts = algorithms.cut(out, self.size)
        parts[self.rank][...] = x.reshape(-1)
        few = out.nbytes < FEW_BYTES
        (algorithms.gather_at_once if few else algorithms.gather_around)(self, parts)

    def _reduce_scatter(self, x: Array, out: Array) -> None:
        parts = algorithms.cut(x, self.size)
        at_once = x.nbytes < FEW_BYTES or algorithms.is_short(x)
        reduce = algorithms.reduce_at_once if at_once else algorithms.reduce_around
        out[...] = reduce(self, parts).reshape(out.shape)

    def _broadcast(self, x: Array, root: int) -> None:
        algorithms.broadcast_by_doubling(self, x, root)


class StagedMessages(MessageCommunicator):
    """The same where the messages of GPUs go through the host's memory."""

    name = "mpi-staged"
