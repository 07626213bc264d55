"""The paged KV cache: fixed-size blocks, handed out on demand and shared by reference count."""

from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable
from llm_numba.kvcache.cache import PagedKVCache, check_num_blocks, default_num_blocks

__all__ = ["BlockAllocator", "BlockTable", "PagedKVCache", "check_num_blocks", "default_num_blocks"]
