"""What every model of this package is: a decoder with a KV cache and an LM head."""

from abc import ABC, abstractmethod

import numpy as np

from llm_numba.kvcache import PagedKVCache
from llm_numba.models.batch import ForwardBatch
from llm_numba.models.config import ModelConfig
from llm_numba.models.execution import Execution
from llm_numba.models.split import rank_config
from llm_numba.models.tensor_parallel import composites_of
from llm_numba.parallel import Partition
from llm_numba.runtime import Array


class Decoder(ABC):
    """A model as the engine sees it, or the part of one that a rank holds.

    Parameters
    ----------
    config : ModelConfig
        Of the whole model.
    lm_head : float [V/P, E] or None
        The rows of this rank's tokens; None before the last stage.
    execution : Execution
    partition : Partition

    Attributes
    ----------
    config : ModelConfig
        Of what is here, see :func:`llm_numba.models.split.rank_config`.
    composites : Composites
        What layers are made of.
    lm_head : float [V/P, E] or None
        None before the last stage.
    logits_dtype : str
        float32, or float64 where the weights are.
    """

    def __init__(
        self,
        config: ModelConfig,
        lm_head: Array | None,
        execution: Execution,
        partition: Partition,
    ) -> None:
        self.config = rank_config(config, partition)
        self.execution = execution
        self.partition = partition
        self.composites = composites_of(self.config, execution, partition)
        self.lm_head = lm_head
        # 16 bits cannot tell apart tokens that are nearly as likely as each other.
        self.logits_dtype = np.promote_types(self.anchor.dtype, np.float32).name

    @property
    @abstractmethod
    def anchor(self) -> Array:
        """A weight that every stage has: inputs go where it lies, in the format that it has."""

    @abstractmethod
    def forward(
        self, batch: ForwardBatch, kv_cache: PagedKVCache, hidden: Array | None = None
    ) -> Array:
        """Run the layers over the new tokens and store their keys and values.

        Parameters
        ----------
        batch : ForwardBatch
        kv_cache : PagedKVCache
            Of the layers that are here, which count from 0.
        hidden : float [N, E], optional
            What the stage before returned; None on the first.

        Returns
        -------
        float [N, E]
            The residual stream behind the last layer that is here, the same on all tensor ranks.
        """

    @abstractmethod
    def scores(self, hidden: Array) -> Array:
        """Score the tokens whose rows of the LM head are here as the next one.

        Parameters
        ----------
        hidden : float [N, E]
            As of :meth:`logits`.

        Returns
        -------
        float32 [N, V/P]
            float64 where the weights are.
        """

    def logits(self, hidden: Array) -> Array:
        """Score every token of the vocabulary as the next one; on the last stage.

        Parameters
        ----------
        hidden : float [N, E]
            Rows of what :meth:`forward` returned; the final norm comes here.

        Returns
        -------
        float32 [N, V]
            float64 where the weights are. The same on all tensor ranks.
        """
        return self.composites.whole_rows(self.scores(hidden))

    def argmax(self, hidden: Array, out: Array | None = None) -> Array:
        """Pick the most likely token, the first of equals; on the last stage.

        Ranks that share the vocabulary do not gather its logits for it.

        Parameters
        ----------
        hidden : float [N, E]
            As of :meth:`logits`.
        out : int64 [N], optional
            On a device, where the tokens go.

        Returns
        -------
        int64 [N]
            -1 where the largest logit is not a finite number, or any is NaN. The same on all
            tensor ranks.
        """
        return self.composites.best_tokens(self.scores(hidden), out)
