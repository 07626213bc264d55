"""What every model of this package is: a decoder with a KV cache and an LM head."""

from abc import ABC, abstractmethod

import numpy as np

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.config import ModelConfig


class Decoder(ABC):
    """A model as the engine sees it.

    Parameters
    ----------
    config : ModelConfig
    lm_head : float [V, E]
    """

    def __init__(self, config: ModelConfig, lm_head: np.ndarray) -> None:
        self.config = config
        self.lm_head = lm_head

    @abstractmethod
    def forward(self, batch: ForwardBatch, kv_cache: PagedKVCache) -> np.ndarray:
        """Run every layer over the new tokens and store their keys and values.

        Parameters
        ----------
        batch : ForwardBatch
        kv_cache : PagedKVCache

        Returns
        -------
        float [N, E]
            Hidden states, after the final norm.
        """

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Score every token of the vocabulary as the next one.

        Parameters
        ----------
        hidden : float [N, E]

        Returns
        -------
        float [N, V]
        """
        return ops.linear(hidden, self.lm_head)
