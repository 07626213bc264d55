"""Compiles the kernels of prompts before the first prompt comes.

Which kernels multiply depends on how many tokens a step has: with one row more, another tile is
faster. To compile one takes seconds, in which all that an engine serves stands still, and nobody
knows which numbers will come. So a step of each number that matters is laid out here, and its
launches are kept from running: what each needs is compiled, or found in the cache, and loaded.
"""

import copy

import numpy as np

from llm_numba.engine.executor import Executor
from llm_numba.engine.step_inputs import BatchInputs
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder
from llm_numba.runtime import compiling_only

# Kernels are made for one number of rows up to 8, for multiples of 8 up to 128, and beyond for
# tiles, of which a multiple of 128 rows is a whole number.
_FEW, _MANY = 8, 128


def row_counts(most: int) -> list[int]:
    """List numbers of tokens of a step between which no other kernel is chosen.

    Parameters
    ----------
    most : int
        Tokens of a step.

    Returns
    -------
    list of int
        Rising, up to `most`. A smaller number takes the kernels of the next one here.
    """
    rows = {*range(1, _FEW), *range(_FEW, _MANY, _FEW), *range(_MANY, most, _MANY), most}
    return sorted(each for each in rows if 0 < each <= most)


class PromptKernels:
    """Compiles what steps with prompts need of a model on one GPU.

    Parameters
    ----------
    model : Decoder
    kv_cache : PagedKVCache
        Nothing is written to it.
    max_num_seqs, max_model_len : int
        Sequences of a step and tokens of a sequence at the most.
    """

    def __init__(
        self, model: Decoder, kv_cache: PagedKVCache, max_num_seqs: int, max_model_len: int
    ) -> None:
        self._executor = Executor(_without_repetition(model), kv_cache)
        self._blocks_for = kv_cache.blocks_for
        self._max_num_seqs, self._max_model_len = max_num_seqs, max_model_len

    def compile(self, num_tokens: int) -> None:
        """Compile what a step of so many new tokens launches, and launch nothing.

        Parameters
        ----------
        num_tokens : int
            Each of the first is followed by one that is sampled, as far as sequences go.
        """
        batch = self._inputs(num_tokens)
        with compiling_only():
            hidden = self._executor.forward(batch)
            self._executor.argmax(batch, hidden)
            self._executor.logits(batch, hidden)

    def _inputs(self, num_tokens: int) -> BatchInputs:
        starts = np.asarray([*range(0, num_tokens, self._max_model_len), num_tokens], np.int32)
        lengths = np.diff(starts)
        positions = np.arange(num_tokens, dtype=np.int32) % self._max_model_len
        nothing = np.zeros(num_tokens, np.int32)
        tables = np.zeros((len(lengths), self._blocks_for(int(lengths.max()))), np.int32)
        scored = np.arange(min(num_tokens, self._max_num_seqs), dtype=np.int32)
        return BatchInputs(
            nothing, nothing, positions, nothing, tables, starts, lengths, scored, scored
        )


def _without_repetition(model: Decoder) -> Decoder:
    """Return a model of the first layers, behind which no other kernels come."""
    windows = model.config.windows
    # The first layer ends with the norm of the next one, and the last one without.
    count = max(2, *(windows.index(each) + 1 for each in windows))
    short = copy.copy(model)
    short.layers = model.layers[:count]
    return short
