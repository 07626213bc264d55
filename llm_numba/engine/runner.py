"""Runs the model over a step's work: builds the batch, computes it, chooses the next tokens."""

from dataclasses import dataclass

import numpy as np

from llm_numba import ops
from llm_numba.engine.sampler import report_logprobs, sample_tokens
from llm_numba.engine.step import PendingStep, Sampled, Step
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

    Attributes
    ----------
    depth : int
        Steps that may be submitted before the oldest of them is waited for, beside the newest.
        With 0 a step is complete when :meth:`submit` returns.
    """

    depth = 0

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        self.model = model
        self.kv_cache = kv_cache

    def submit(self, step: Step) -> PendingStep:
        """Compute a step and choose the tokens that follow.

        Parameters
        ----------
        step : Step
            With at least one work.

        Returns
        -------
        PendingStep
        """
        hidden = self._forward(
            [(w.token_ids, w.start, w.slots, w.sequence.table) for w in step.works]
        )
        last_rows = np.cumsum([len(work.token_ids) for work in step.works]) - 1
        sampling = [i for i, work in enumerate(step.works) if work.samplers]
        if not sampling:
            return CompletedStep([])
        if len(sampling) < len(hidden):
            hidden = self._rows(hidden, last_rows[sampling])
        logits = self.model.logits(hidden)
        # The samples of one prompt part here: each draws from the same row.
        rows = [row for row, i in enumerate(sampling) for _ in step.works[i].samplers]
        if len(rows) > len(sampling):
            logits = self._rows(logits, rows)
        sequences = step.samplers
        token_ids = sample_tokens(logits, sequences)
        logprobs = report_logprobs(logits, token_ids, sequences)
        return CompletedStep(list(map(Sampled, sequences, token_ids, logprobs)))

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
        start = table.num_tokens
        try:
            slots = table.append_slots(len(token_ids))
            return to_host(self.model.logits(self._forward([(token_ids, start, slots, table)])))
        except BaseException:
            # Also for Ctrl-C: a table must never claim a token whose key was not written.
            table.truncate(start)
            raise

    def _rows(self, x: Array, indices: np.ndarray | list[int]) -> Array:
        """Pick rows of a device's array by indices on the host."""
        return ops.embedding(*upload([np.asarray(indices, np.int32)], like=x), x)

    def _forward(self, work: list[tuple[list[int], int, list[int], BlockTable]]) -> Array:
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for new_ids, start, new_slots, _ in work:
            token_ids += new_ids
            positions += range(start, start + len(new_ids))
            slots += new_slots
            starts.append(len(token_ids))
        width = max(len(table.blocks) for *_, table in work)
        block_tables = np.zeros((len(work), width), np.int32)
        for row, (*_, table) in zip(block_tables, work, strict=True):
            row[: len(table.blocks)] = table.blocks
        context_lens = [start + len(new_ids) for new_ids, start, *_ in work]
        lists = (token_ids, positions, slots, block_tables, starts, context_lens)
        arrays = [np.asarray(values, np.int32) for values in lists]
        batch = ForwardBatch(*upload(arrays, like=self.model.lm_head))
        return self.model.forward(batch, self.kv_cache)


@dataclass
class CompletedStep:
    """A step whose tokens are there already."""

    sampled: list[Sampled]

    def wait(self) -> list[Sampled]:
        """Return the tokens."""
        return self.sampled
