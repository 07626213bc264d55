r"""What ranks that share each layer do otherwise than one that has it all.

They hold parts of the weights, cut as :mod:`llm_numba.models.split` says, and the whole residual
stream each, with the same bits. Inside of a block everybody works on heads, or on inner numbers of
the MLP, of his own. Two layouts differ in how a block ends, and so in what is sent:

``megatron``
    The closing product has the weights for this rank's inputs. It makes a part of each number of
    the result; one all-reduce adds them up.

``gather``
    The closing product has the weights for this rank's outputs. It needs all inputs, so they are
    gathered first, and then its results. No sum is ever split.

Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

import functools
from collections.abc import Callable
from typing import Any

from llm_numba import ops
from llm_numba.models.composites import Composites, Rows
from llm_numba.models.config import ModelConfig
from llm_numba.models.execution import Execution
from llm_numba.parallel import Partition
from llm_numba.runtime import Array, empty, is_device_array, side_stream

# Of a product whose sums overlap: tiles of so many rows by 4096 columns keep every SM of a large
# GPU busy once.
CHUNK_ROWS = 1024


class TensorParallel(Composites):
    """Operations of one of P ranks, in the layout ``megatron``.

    Parameters
    ----------
    config : ModelConfig
        The rank's part.
    execution : Execution
    partition : Partition
    """

    def __init__(self, config: ModelConfig, execution: Execution, partition: Partition) -> None:
        super().__init__(config, execution)
        self.tensor = partition.tensor
        self.vocabulary = partition.shares(config.vocab_size)

    @property
    def first_token(self) -> int:
        """The token of the first row that this rank has of embedding and LM head."""
        return self.vocabulary[self.tensor.rank].start

    def embed(
        self,
        token_ids: Array,
        weight: Array,
        positions: Array | None = None,
        position_weight: Array | None = None,
    ) -> Array:
        """Begin the residual stream, see :meth:`Composites.embed`; `weight` is [V/P, E].

        Parameters
        ----------
        token_ids : int [N]
        weight : float [V/P, E]
        positions : int [N], optional
        position_weight : float [T, E], optional
            On rank 0 alone, which adds it for all.

        Returns
        -------
        float [N, E]
        """
        r = ops.embedding_part(token_ids, weight, self.first_token)
        if position_weight is not None:
            r = ops.add(r, ops.embedding(positions, position_weight))
        return self.tensor.all_reduce(r)

    def close(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array,
        norm: Array | None = None,
    ) -> tuple[Array, Rows | None]:
        """Multiply what a block made, add over ranks and to the residual stream, normalise.

        Parameters
        ----------
        x : float [M, K/P]
        weight : float [E, K/P]
        bias : float [E] or None
            On rank 0 alone.
        residual : float [M, E]
            Counts once: it is added to the sum, or by rank 0 in the epilogue of its product.
        norm : float [E], optional
            As of :meth:`Composites.norm`.

        Returns
        -------
        r : float [M, E]
        normed : float [M, E], Unnormed or None
            See :meth:`Composites.close`.
        """
        if norm is None or not self.execution.close_with_norm:
            mine = residual if self.tensor.rank == 0 else None
            r = self._summed(x, weight, bias, mine)
            return r, self.norm(r, norm)
        eps = self.config.norm_eps
        if self._overlaps(x):
            normed, r = ops.add_rms_norm(self._summed(x, weight, bias), residual, norm, eps)
        else:
            part = self.product(x, weight, bias)
            normed, r = self.tensor.all_reduce_norm(part, residual, norm, eps)
        return r, normed

    def _overlaps(self, x: Array) -> bool:
        many = len(x) >= 2 * CHUNK_ROWS and is_device_array(x)
        return self.execution.overlap_sums and many

    def _summed(
        self, x: Array, weight: Array, bias: Array | None, residual: Array | None = None
    ) -> Array:
        """Multiply, and add up over ranks: at once, or each chunk while the next is multiplied."""
        if not self._overlaps(x):
            return self.tensor.all_reduce(self.product(x, weight, bias, residual=residual))
        out, side = empty((len(x), len(weight)), x.dtype, like=x), side_stream(x)
        sums: list[tuple[Callable[[], object], Any]] = []
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            mine = None if residual is None else residual[rows]
            self.product(x[rows], weight, bias, residual=mine, out=out[rows])
            sums.append((functools.partial(self.tensor.all_reduce, out[rows]), side.mark()))
            # Where the host itself waits for messages, the next product is queued before it does.
            if len(sums) > 1:
                side.queue(*sums[-2])
        side.queue(*sums[-1])
        side.join()
        return out

    def whole_rows(self, scores: Array) -> Array:
        """Gather the logits of all ranks.

        Parameters
        ----------
        scores : float [N, V/P]

        Returns
        -------
        float [N, V]
        """
        return self._gather(scores, self.vocabulary)

    def best_tokens(self, scores: Array, out: Array | None = None) -> Array:
        """Pick the token with the largest logit; two numbers a row and rank are sent.

        Parameters
        ----------
        scores : float [N, V/P]
        out : int64 [N], optional

        Returns
        -------
        int64 [N]
            See :meth:`Composites.best_tokens`.
        """
        found = self.tensor.all_gather(ops.argmax_part(scores, self.first_token))
        parts = found.reshape(self.tensor.size, -1, 2)
        return ops.argmax_of_parts(parts) if out is None else ops.argmax_of_parts(parts, out=out)

    def _gather(self, part: Array, columns: list[range]) -> Array:
        """Put the columns of all ranks side by side; `columns` says which each rank has."""
        rows, widest = len(part), max(map(len, columns))
        sent = part
        if part.shape[1] < widest:
            # Everybody sends as much; nobody reads what is too much.
            sent = empty((rows, widest), part.dtype, like=part)
            sent[:, : part.shape[1]] = part
        parts = self.tensor.all_gather(sent).reshape(len(columns), rows, widest)
        out = empty((rows, columns[-1].stop), part.dtype, like=part)
        for each, place in zip(parts, columns, strict=True):
            out[:, place.start : place.stop] = each[:, : len(place)]
        return out


class GatherParallel(TensorParallel):
    """Operations of one of P ranks, in the layout ``gather``; parameters as of the other."""

    def close(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array,
        norm: Array | None = None,
    ) -> tuple[Array, Rows | None]:
        """Multiply what a block made, add it to the residual stream, normalise for the next block.

        Parameters
        ----------
        x : float [M, K/P]
        weight : float [E/P, K]
        bias : float [E/P] or None
        residual : float [M, E]
        norm : float [E], optional
            As of :meth:`Composites.norm`.

        Returns
        -------
        r : float [M, E]
        normed : float [M, E], Unnormed or None
            See :meth:`Composites.close`.
        """
        y = self.product(self._gather_even(x), weight, bias)
        r = ops.add(self._gather_even(y), residual)
        return r, self.norm(r, norm)

    def _gather_even(self, part: Array) -> Array:
        width = part.shape[1]
        ranks = range(self.tensor.size)
        return self._gather(part, [range(p * width, (p + 1) * width) for p in ranks])


def composites_of(config: ModelConfig, execution: Execution, partition: Partition) -> Composites:
    """Choose the operations of a rank.

    Parameters
    ----------
    config : ModelConfig
        The rank's part.
    execution : Execution
    partition : Partition

    Returns
    -------
    Composites
    """
    if partition.tensor.size == 1:
        return Composites(config, execution)
    layout = {"megatron": TensorParallel, "gather": GatherParallel}[execution.tensor_layout]
    return layout(config, execution, partition)
