"""Computes a step that was laid out as numbers: needs the model and its KV cache, nothing else."""

import numpy as np

from llm_numba import ops
from llm_numba.engine.step import IN_FLIGHT
from llm_numba.engine.step_inputs import BatchInputs
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, ForwardBatch
from llm_numba.runtime import Array, upload


class Executor:
    """A model with its KV cache.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        On the model's device.
    """

    def __init__(self, model: Decoder, kv_cache: PagedKVCache) -> None:
        self._model, self._kv_cache = model, kv_cache

    def forward(
        self, batch: BatchInputs, before: Array | None = None, hidden: Array | None = None
    ) -> Array:
        """Run the layers over the new tokens.

        Parameters
        ----------
        batch : BatchInputs
        before : int64 [at least as many rows], optional
            The tokens of the step before, if some of them are in flight.
        hidden : float [N, E], optional
            The residual stream as the pipeline stage before left it; None on the first.

        Returns
        -------
        float [N, E]
            The residual stream behind the last layer.
        """
        lists = (batch.token_ids, batch.sources, batch.positions, batch.slots)
        shapes = (batch.block_tables, batch.query_starts, batch.context_lens)
        tokens, places, *others = upload([*lists, *shapes], like=self._model.anchor)
        if (batch.token_ids == IN_FLIGHT).any():
            tokens = ops.fill_in_tokens(tokens, places, before)
        inputs = ForwardBatch(tokens, *others)
        if hidden is None:
            return self._model.forward(inputs, self._kv_cache)
        return self._model.forward(inputs, self._kv_cache, hidden)

    def logits(self, batch: BatchInputs, hidden: Array) -> Array:
        """Score what follows, where somebody asks.

        Parameters
        ----------
        batch : BatchInputs
            With at least one sampler.
        hidden : float [N, E]
            From :meth:`forward`.

        Returns
        -------
        float32 [K, V]
            A row for each sampler.
        """
        logits = self._model.logits(self._scored(batch, hidden))
        return logits if len(batch.drawn) == len(logits) else self._rows(logits, batch.drawn)

    def argmax(self, batch: BatchInputs, hidden: Array, out: Array | None = None) -> Array:
        """Choose the most likely tokens, where nothing else is asked for.

        Parameters
        ----------
        batch, hidden
            As for :meth:`logits`.
        out : int64 [K], optional
            On a device, where the tokens go.

        Returns
        -------
        int64 [K]
            :data:`~llm_numba.engine.step.NOT_FINITE` where logits are not finite numbers.
        """
        return self._model.argmax(self._scored(batch, hidden), out)

    def _scored(self, batch: BatchInputs, hidden: Array) -> Array:
        return hidden if len(batch.scored) == len(hidden) else self._rows(hidden, batch.scored)

    def _rows(self, x: Array, indices: np.ndarray) -> Array:
        """Pick rows of a device's array by indices on the host."""
        return ops.embedding(*upload([indices], like=x), x)
