import numpy as np

from llm_numba.kvcache import PagedKVCache

cache = PagedKVCache(
    num_layers=1, num_blocks=8, block_size=4, num_kv_heads=1, head_dim=2, dtype=np.dtype("float32")
)
first = cache.new_table()
print("slots of a prompt of 6:", first.append_slots(6), "in blocks", first.blocks)

second = cache.new_table()
print("slots of a prompt of 3:", second.append_slots(3), "in blocks", second.blocks)
print("first decodes 3 more:  ", first.append_slots(3), "in blocks", first.blocks)

sample = second.fork()  # a second answer to the same prompt: no block is copied yet
print("forked:", sample.blocks, "free:", cache.allocator.num_free)
print("it writes its own token to", sample.append_slots(1), "in blocks", sample.blocks)

for table in (first, second, sample):
    table.free()
print("free in the end:", cache.allocator.num_free)
