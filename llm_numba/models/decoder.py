"""What every model of this package is: a decoder with a KV cache and an LM head."""

from abc import ABC, abstractmethod

import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.composites import Composites
from llm_numba.models.config import ModelConfig
from llm_numba.models.execution import Execution
from llm_numba.runtime import Array


class Decoder(ABC):
    """A model as the engine sees it.

    Parameters
    ----------
    config : ModelConfig
    lm_head : float [V, E]
    execution : Execution

    Attributes
    ----------
    composites : Composites
        What layers are made of.
    logits_dtype : str
        float32, or float64 where the weights are.
    """

    def __init__(self, config: ModelConfig, lm_head: Array, execution: Execution) -> None:
        self.config = config
        self.execution = execution
        self.composites = Composites(config, execution)
        self.lm_head = lm_head
        # 16 bits cannot tell apart tokens that are nearly as likely as each other.
        self.logits_dtype = np.promote_types(lm_head.dtype, np.float32).name

    @abstractmethod
    def forward(self, batch: ForwardBatch, kv_cache: PagedKVCache) -> Array:
        """Run every layer over the new tokens and store their keys and values.

        Parameters
        ----------
        batch : ForwardBatch
        kv_cache : PagedKVCache

        Returns
        -------
        float [N, E]
            The residual stream behind the last layer.
        """

    @abstractmethod
    def logits(self, hidden: Array) -> Array:
        """Score every token of the vocabulary as the next one.

        Parameters
        ----------
        hidden : float [N, E]
            Rows of what :meth:`forward` returned; the final norm comes here.

        Returns
        -------
        float32 [N, V]
            float64 where the weights are.
        """
