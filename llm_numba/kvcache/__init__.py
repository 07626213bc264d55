"""The paged KV cache: fixed-size blocks, handed out on demand, shared, and found again."""

from llm_numba.kvcache.allocator import BlockAllocator
from llm_numba.kvcache.block_table import BlockTable
from llm_numba.kvcache.cache import PagedKVCache
from llm_numba.kvcache.prefix_cache import PrefixCache
from llm_numba.kvcache.sizing import Needs, Room, gib, gpu_limit, gpu_num_blocks, host_num_blocks

__all__ = [
    "BlockAllocator",
    "BlockTable",
    "Needs",
    "PagedKVCache",
    "PrefixCache",
    "Room",
    "gib",
    "gpu_limit",
    "gpu_num_blocks",
    "host_num_blocks",
]
