"""Runs the model over a step's sequences: builds the batch, makes room in the cache."""

import numpy as np

from llm_numba.kvcache import BlockTable, PagedKVCache
from llm_numba.models import Decoder, ForwardBatch


class ModelRunner:
    """A model with its KV cache.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
    """

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        self.model = model
        self.kv_cache = kv_cache

    def next_token_logits(self, work: list[tuple[list[int], BlockTable]]) -> np.ndarray:
        """Compute new tokens of several sequences and score what follows each.

        Parameters
        ----------
        work : list of B (token ids, table)
            The tokens that the table does not hold yet, at least one each; it holds them after.

        Returns
        -------
        float [B, V]
        """
        hidden, batch = self._forward(work)
        return self.model.logits(hidden[batch.query_starts[1:] - 1])

    def all_logits(self, token_ids: list[int], table: BlockTable) -> np.ndarray:
        """Compute new tokens of one sequence and score what follows every one of them.

        Parameters
        ----------
        token_ids : list of S int
        table : BlockTable

        Returns
        -------
        float [S, V]
        """
        hidden, _ = self._forward([(token_ids, table)])
        return self.model.logits(hidden)

    def _forward(self, work: list[tuple[list[int], BlockTable]]) -> tuple[np.ndarray, ForwardBatch]:
        before = [table.num_tokens for _, table in work]
        try:
            batch = self._batch(work, before)
            return self.model.forward(batch, self.kv_cache), batch
        except BaseException:
            # Also for Ctrl-C: a table must never claim a token whose key was not written.
            for (_, table), num_tokens in zip(work, before, strict=True):
                table.truncate(num_tokens)
            raise

    @staticmethod
    def _batch(work: list[tuple[list[int], BlockTable]], before: list[int]) -> ForwardBatch:
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for (new_ids, table), start in zip(work, before, strict=True):
            token_ids += new_ids
            positions += range(start, start + len(new_ids))
            slots += table.append_slots(len(new_ids))
            starts.append(len(token_ids))
        width = max(len(table.blocks) for _, table in work)
        block_tables = np.zeros((len(work), width), np.int64)
        for row, (_, table) in zip(block_tables, work, strict=True):
            row[: len(table.blocks)] = table.blocks
        return ForwardBatch(
            token_ids=np.array(token_ids),
            positions=np.array(positions),
            slot_mapping=np.array(slots),
            block_tables=block_tables,
            query_starts=np.array(starts),
            context_lens=np.array([table.num_tokens for _, table in work]),
        )
