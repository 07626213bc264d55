"""Where each GPU's memory goes when a model is cut among many.

The sum is that of one GPU, :mod:`llm_numba.engine.memory`, done on the rank's own part::

    limit >= weights + activations + reserve + buffers + KV cache

Only the buffers are new: what goes out to other ranks, or comes in. With one rank there are none,
and the plan is the engine's.
"""

from dataclasses import dataclass

import numpy as np

from llm_numba.engine.memory import (
    CODE_BYTES,
    CONTEXT_BYTES,
    MemoryOptions,
    activation_bytes,
    kv_bytes_per_token,
)
from llm_numba.errors import EngineError
from llm_numba.kvcache import Needs, Room, gib, gpu_limit
from llm_numba.planner.split import Division, Rank

# One message is on its way while the next is made.
_PING_PONG = 2


@dataclass(frozen=True)
class RankMemory:
    """Where one GPU's memory goes, in bytes.

    Attributes
    ----------
    rank : Rank
    weights, kv, activations, buffers, reserve : int
        The KV cache is that of all sequences at their longest; the reserve is the CUDA context and
        the code of kernels.
    limit : int
        That may be taken.
    blocks_needed, blocks_affordable : int
        Of the KV cache: what the sequences need, and what would fit.
    """

    rank: Rank
    weights: int
    kv: int
    activations: int
    buffers: int
    reserve: int
    limit: int
    blocks_needed: int
    blocks_affordable: int

    @property
    def taken(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.activations + self.buffers + self.reserve

    @property
    def taken_by_engine(self) -> int:
        """The same with as large a cache as fits, if that is smaller: what an engine takes."""
        block_bytes = self.kv // (self.blocks_needed + 1)
        missing = max(0, self.blocks_needed - self.blocks_affordable)
        return self.taken - missing * block_bytes

    @property
    def fits(self) -> bool:
        """Whether that is no more than the limit."""
        return self.taken <= self.limit


def rank_memory(
    split: Division, rank: Rank, dtype: np.dtype, options: MemoryOptions, card_bytes: int
) -> RankMemory:
    """Work out what one rank takes, whether or not it fits.

    Parameters
    ----------
    split : Division
    rank : Rank
        Of it.
    dtype : dtype
        Of weights, activations and cache.
    options : MemoryOptions
        The longest sequence, and how many of that length there are at a time.
    card_bytes : int
        Of the GPU's memory.

    Returns
    -------
    RankMemory
    """
    room = Room(
        kv_bytes_per_token(rank.config, dtype) * options.block_size,
        options.block_size,
        options.max_model_len,
        options.max_num_seqs,
    )
    weights = rank.num_parameters * dtype.itemsize + rope_bytes(rank, dtype, options.max_model_len)
    activations = activation_bytes(rank.config, dtype, "cuda", options)
    buffers = buffer_bytes(split, rank, dtype, options)
    needs = Needs(weights, activations, CONTEXT_BYTES + CODE_BYTES)
    limit = gpu_limit(card_bytes, card_bytes, options.gpu_memory_utilization, options.gpu_memory_gb)
    blocks = room.blocks_per_sequence * room.max_num_seqs
    left = limit - needs.num_bytes - buffers
    # One more than sequences get, for rows that only fill up a batch.
    kv = (blocks + 1) * room.block_bytes
    affordable = max(0, left // room.block_bytes - 1)
    return RankMemory(
        rank, weights, kv, activations, buffers, needs.reserve, limit, blocks, affordable
    )


def plan_stages(
    split: Division, dtype: np.dtype, options: MemoryOptions, card_bytes: int
) -> list[RankMemory]:
    """Work out what the fullest rank of each stage takes, and refuse what does not fit.

    Parameters
    ----------
    split, dtype, options, card_bytes
        See :func:`rank_memory`.

    Returns
    -------
    list of RankMemory
        Stage 0 first.

    Raises
    ------
    EngineError
        Naming the stage that takes most, what it takes, and what to change.
    """
    memories = [
        max(
            (rank_memory(split, rank, dtype, options, card_bytes) for rank in ranks),
            key=lambda each: each.taken,
        )
        for ranks in split.outermost
    ]
    worst = max(memories, key=lambda each: each.taken)
    if not worst.fits:
        raise _too_large(split, worst, options)
    return memories


def rope_bytes(rank: Rank, dtype: np.dtype, num_positions: int) -> int:
    """Return the bytes of RoPE's tables, which each rank has whole.

    Parameters
    ----------
    rank : Rank
    dtype : dtype
    num_positions : int
    """
    if rank.config.architecture == "GPT2LMHeadModel":
        return 0
    return num_positions * rank.config.head_dim * max(4, dtype.itemsize)


def buffer_bytes(split: Division, rank: Rank, dtype: np.dtype, options: MemoryOptions) -> int:
    """Return the bytes of messages to and from other ranks: rows [N, E] of the residual stream.

    Parameters
    ----------
    split : Division
    rank : Rank
    dtype : dtype
    options : MemoryOptions

    Returns
    -------
    int
        Two for the all-reduce, if layers are shared; two for each neighbouring stage.
    """
    num_tokens = min(options.max_num_batched_tokens, options.max_num_seqs * options.max_model_len)
    message = num_tokens * rank.config.hidden_size * dtype.itemsize
    partition = rank.partition
    partners = (split.tp > 1) + (not partition.is_first) + (not partition.is_last)
    return _PING_PONG * partners * message


def _too_large(split: Division, worst: RankMemory, options: MemoryOptions) -> EngineError:
    rank = worst.rank
    parts = (
        f"weights {gib(worst.weights)}, activations {gib(worst.activations)}, buffers "
        f"{gib(worst.buffers)}, CUDA itself {gib(worst.reserve)}"
    )
    cause = (
        f"A GPU of stage {rank.stage} would have to hold {gib(worst.taken)} (tp={split.tp}, "
        f"pp={split.pp}: {parts}, and a KV cache of {gib(worst.kv)}), and may take "
        f"{gib(worst.limit)}."
    )
    if worst.taken - worst.kv > worst.limit:
        return EngineError(cause, "Raise tp or pp, or take a GPU with more memory.")
    fitting = worst.blocks_affordable // (worst.blocks_needed // options.max_num_seqs)
    fewer = (
        f"Lower the batch to at most {fitting} sequences of {options.max_model_len:,} tokens"
        if fitting
        else "Not one sequence fits: lower the context"
    )
    return EngineError(cause, f"{fewer}, raise tp or pp, or take a GPU with more memory.")
