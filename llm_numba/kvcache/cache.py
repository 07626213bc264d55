"""The memory behind the blocks: keys and values of every layer."""

import numpy as np

from llm_numba import ops
from llm_numba.errors import CacheError
from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable, count_blocks
from llm_numba.runtime import available_memory

# Without num_blocks the cache takes at most this part of the available memory.
MEMORY_FRACTION = 0.5


class PagedKVCache:
    """Keys and values of all layers in blocks of ``block_size`` tokens.

    Parameters
    ----------
    num_layers, num_blocks, block_size, num_kv_heads, head_dim : int
        L, and the shape of a layer's keys: ``[num_blocks, block_size, G, D]``.
    dtype : dtype

    Attributes
    ----------
    layers : list of (k_cache, v_cache)
    allocator : BlockAllocator
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: np.dtype,
    ) -> None:
        shape = (num_blocks, block_size, num_kv_heads, head_dim)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 times NaN is NaN.
        # The operating system hands these pages out only when they are first written.
        self.layers = [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in range(num_layers)]
        self.block_size = block_size
        self.allocator = BlockAllocator(num_blocks)

    def new_table(self) -> BlockTable:
        """Return an empty block table for a new sequence."""
        return BlockTable(self.allocator, self.block_size, self._copy_block)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks a sequence of that many tokens fills or begins."""
        return count_blocks(num_tokens, self.block_size)

    def _copy_block(self, source: int, target: int) -> None:
        for k_cache, v_cache in self.layers:
            for cache in (k_cache, v_cache):
                ops.copy_blocks(cache, np.array([source]), np.array([target]))


def check_num_blocks(
    num_blocks: int, block_bytes: int, block_size: int, max_model_len: int
) -> None:
    """Refuse a number of blocks that no sequence, or no machine like this, can do with.

    Parameters
    ----------
    num_blocks : int
        The user's choice.
    block_bytes, block_size, max_model_len : int
        As for :func:`default_num_blocks`.

    Raises
    ------
    CacheError
        Naming the number of blocks that one full sequence needs, or that memory holds.
    """
    blocks_per_sequence = count_blocks(max_model_len, block_size)
    if num_blocks < blocks_per_sequence:
        raise CacheError(
            f"num_blocks={num_blocks} blocks of {block_size} tokens cannot hold one sequence "
            f"of max_model_len={max_model_len} tokens.",
            f"Give at least {blocks_per_sequence} blocks, or lower max_model_len.",
        )
    available = available_memory()
    if num_blocks * block_bytes > available:
        raise CacheError(
            f"num_blocks={num_blocks} blocks of {block_bytes / 1e6:.3g} MB take "
            f"{num_blocks * block_bytes / 1e9:.3g} GB, and {available / 1e9:.3g} GB of memory are "
            "available.",
            f"Give at most {available // block_bytes} blocks.",
        )


def default_num_blocks(
    block_bytes: int, block_size: int, max_model_len: int, max_num_seqs: int, weight_bytes: int = 0
) -> int:
    """Choose the number of blocks from the machine's available memory.

    Parameters
    ----------
    block_bytes : int
        Bytes of a block over all layers, keys and values.
    block_size : int
        Tokens a block.
    max_model_len : int
        Tokens of a sequence of full length.
    max_num_seqs : int
        Sequences at a time; more blocks than these can fill are never useful.
    weight_bytes : int
        Memory that the weights are yet to take.

    Returns
    -------
    int

    Raises
    ------
    CacheError
        If not even one sequence of full length fits.
    """
    available = max(0, available_memory() - weight_bytes)
    affordable = int(available * MEMORY_FRACTION) // block_bytes
    blocks_per_sequence = count_blocks(max_model_len, block_size)
    if affordable < blocks_per_sequence:
        needed = blocks_per_sequence * block_bytes
        raise CacheError(
            f"A KV cache for one sequence of {max_model_len} tokens takes {needed / 1e9:.2f} GB, "
            f"more than {MEMORY_FRACTION:.0%} of the {available / 1e9:.2f} GB that are available "
            "beside the weights.",
            f"Set max_model_len to at most {affordable * block_size}, or set num_blocks yourself."
            if affordable
            else "Take a smaller model, or a machine with more memory.",
        )
    return min(affordable, blocks_per_sequence * max_num_seqs)
