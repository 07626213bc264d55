"""The memory behind the blocks: keys and values of every layer."""

import numpy as np

from llm_numba import ops
from llm_numba.errors import CacheError
from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable, count_blocks
from llm_numba.kvcache.prefix_cache import PrefixCache
from llm_numba.runtime import available_gpu_memory, available_memory, upload, zeros

# Without num_blocks the cache takes at most this part of the available memory: a laptop has other
# things to do, a GPU has not, but for the activations of a step.
MEMORY_FRACTION = 0.5
GPU_MEMORY_FRACTION = 0.8


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
    layers : list of (k_cache, v_cache)
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
        shape = (num_blocks + 1, block_size, num_kv_heads, head_dim)
        # Zeros, not uninitialised memory: a masked key has weight 0, and 0 times NaN is NaN.
        self.layers = [
            (zeros(shape, dtype, device), zeros(shape, dtype, device)) for _ in range(num_layers)
        ]
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
        return BlockTable(self.allocator, self.block_size, self._copy_block)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks a sequence of that many tokens fills or begins."""
        return count_blocks(num_tokens, self.block_size)

    def _copy_block(self, source: int, target: int) -> None:
        if not self.layers:
            return
        pair = [np.array([source], np.int32), np.array([target], np.int32)]
        sources, targets = upload(pair, like=self.layers[0][0])
        for k_cache, v_cache in self.layers:
            ops.copy_blocks(k_cache, sources, targets)
            ops.copy_blocks(v_cache, sources, targets)


def check_num_blocks(
    num_blocks: int,
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    weight_bytes: int = 0,
    device: str = "cpu",
) -> None:
    """Refuse a number of blocks that no sequence, or no machine like this, can do with.

    Parameters
    ----------
    num_blocks : int
        The user's choice.
    block_bytes, block_size, max_model_len, weight_bytes, device
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
    available = max(0, _available(device) - weight_bytes)
    if num_blocks * block_bytes > available:
        raise CacheError(
            f"num_blocks={num_blocks} blocks of {block_bytes / 1e6:.3g} MB take "
            f"{num_blocks * block_bytes / 1e9:.3g} GB, and {available / 1e9:.3g} GB of "
            f"{_memory(device)} are available beside the weights.",
            f"Give at most {available // block_bytes} blocks.",
        )


def default_num_blocks(
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    weight_bytes: int = 0,
    device: str = "cpu",
) -> int:
    """Choose the number of blocks from the memory that the device has left.

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
    device : {"cpu", "cuda", "sim"}
        Whose memory it is.

    Returns
    -------
    int

    Raises
    ------
    CacheError
        If not even one sequence of full length fits.
    """
    available = max(0, _available(device) - weight_bytes)
    fraction = GPU_MEMORY_FRACTION if device == "cuda" else MEMORY_FRACTION
    affordable = int(available * fraction) // block_bytes
    blocks_per_sequence = count_blocks(max_model_len, block_size)
    if affordable < blocks_per_sequence:
        needed = blocks_per_sequence * block_bytes
        raise CacheError(
            f"A KV cache for one sequence of {max_model_len} tokens takes {needed / 1e9:.2f} GB, "
            f"more than {fraction:.0%} of the {available / 1e9:.2f} GB of {_memory(device)} that "
            "are available beside the weights.",
            f"Set max_model_len to at most {affordable * block_size}, or set num_blocks yourself."
            if affordable
            else f"Take a smaller model, or a {_machine(device)} with more memory.",
        )
    return min(affordable, blocks_per_sequence * max_num_seqs)


def _available(device: str) -> int:
    return available_gpu_memory() if device == "cuda" else available_memory()


def _memory(device: str) -> str:
    return "the GPU's memory" if device == "cuda" else "memory"


def _machine(device: str) -> str:
    return "GPU" if device == "cuda" else "machine"
