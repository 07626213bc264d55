"""The paged KV cache: fixed-size blocks, handed out on demand, shared, and found again."""

from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable
from llm_numba.kvcache.cache import PagedKVCache, check_num_blocks, default_num_blocks
from llm_numba.kvcache.prefix_cache import PrefixCache

__all__ = [
    "BlockAllocator",
    "BlockTable",
    "PagedKVCache",
    "PrefixCache",
    "check_num_blocks",
    "default_num_blocks",
]
