"""The memory behind the blocks: keys and values of every layer."""

import numpy as np

from llm_numba import ops
from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable, count_blocks
from llm_numba.kvcache.prefix_cache import PrefixCache
from llm_numba.runtime import upload, zeros


class PagedKVCache:
    """Keys and values of all layers in blocks of ``block_size`` tokens.

    Parameters
    ----------
    num_layers, num_blocks, block_size, num_kv_heads, head_dim : int
        L, and the shape of a layer's keys: ``[num_blocks + 1, block_size, G, D]``.
    dtype : dtype
    device : {"cpu", "cuda", "sim"}
    identity : str, optional
        Of the model, as :class:`PrefixCache` wants it; None switches prefix caching off.

    Attributes
    ----------
    keys, values : [L * (num_blocks + 1), block_size, G, D]
        Of all layers, one behind the other.
    layers : list of (k_cache, v_cache)
        Each layer's part of them.
    allocator : BlockAllocator
    block_size : int
    null_block : int
        The last one, which no sequence ever gets: rows that only fill up a batch write there.
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: np.dtype,
        device: str = "cpu",
        identity: str | None = None,
    ) -> None:
        shape = (num_layers * (num_blocks + 1), block_size, num_kv_heads, head_dim)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 times NaN is NaN.
        self.keys, self.values = zeros(shape, dtype, device), zeros(shape, dtype, device)
        parts = [slice(i * (num_blocks + 1), (i + 1) * (num_blocks + 1)) for i in range(num_layers)]
        self.layers = [(self.keys[part], self.values[part]) for part in parts]
        self.block_size = block_size
        self.null_block = num_blocks
        prefix_cache = None if identity is None else PrefixCache(identity, block_size)
        self.allocator = BlockAllocator(num_blocks, prefix_cache)

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """What finds the blocks of known beginnings; None if that is switched off."""
        return self.allocator.prefix_cache

    @property
    def num_bytes(self) -> int:
        """Memory of all layers' keys and values."""
        return sum(array.nbytes for layer in self.layers for array in layer)

    def new_table(self) -> BlockTable:
        """Return an empty block table for a new sequence."""
        return BlockTable(self.allocator, self.block_size, self.copy_block)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks a sequence of that many tokens fills or begins."""
        return count_blocks(num_tokens, self.block_size)

    def copy_block(self, source: int, target: int) -> None:
        """Copy a block's keys and values in every layer.

        Parameters
        ----------
        source, target : int
        """
        if not self.layers:
            return
        pair = [np.array([source], np.int32), np.array([target], np.int32)]
        sources, targets = upload(pair, like=self.layers[0][0])
        for k_cache, v_cache in self.layers:
            ops.copy_blocks(k_cache, sources, targets)
            ops.copy_blocks(v_cache, sources, targets)
