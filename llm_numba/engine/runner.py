"""Runs the model over a step's sequences: builds the batch, makes room in the cache."""

import numpy as np

from llm_numba import ops
from llm_numba.kvcache import BlockTable, PagedKVCache
from llm_numba.models import Decoder, ForwardBatch
from llm_numba.runtime import Array, to_host, upload


class ModelRunner:
    """A model with its KV cache.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        On the model's device.
    """

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        self.model = model
        self.kv_cache = kv_cache

    def next_token_logits(self, work: list[tuple[list[int], BlockTable]]) -> Array:
        """Compute new tokens of several sequences and score what follows each.

        Parameters
        ----------
        work : list of B (token ids, table)
            The tokens that the table does not hold yet, at least one each; it holds them after.

        Returns
        -------
        float [B, V]
            On the model's device.
        """
        hidden = self._forward(work)
        if len(hidden) > len(work):
            last_rows = np.cumsum([len(token_ids) for token_ids, _ in work]) - 1
            hidden = self.rows(hidden, last_rows)
        return self.model.logits(hidden)

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
        return to_host(self.model.logits(self._forward([(token_ids, table)])))

    def rows(self, x: Array, indices: np.ndarray | list[int]) -> Array:
        """Pick rows of a device's array.

        Parameters
        ----------
        x : float [N, ...]
        indices : int [M]
            On the host.

        Returns
        -------
        float [M, ...]
        """
        return ops.embedding(*upload([np.asarray(indices, np.int32)], like=x), x)

    def _forward(self, work: list[tuple[list[int], BlockTable]]) -> Array:
        before = [table.num_tokens for _, table in work]
        try:
            return self.model.forward(self._batch(work, before), self.kv_cache)
        except BaseException:
            # Also for Ctrl-C: a table must never claim a token whose key was not written.
            for (_, table), num_tokens in zip(work, before, strict=True):
                table.truncate(num_tokens)
            raise

    def _batch(self, work: list[tuple[list[int], BlockTable]], before: list[int]) -> ForwardBatch:
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
        block_tables = np.zeros((len(work), width), np.int32)
        for row, (_, table) in zip(block_tables, work, strict=True):
            row[: len(table.blocks)] = table.blocks
        context_lens = [table.num_tokens for _, table in work]
        lists = (token_ids, positions, slots, block_tables, starts, context_lens)
        arrays = [np.asarray(values, np.int32) for values in lists]
        return ForwardBatch(*upload(arrays, like=self.model.lm_head))
