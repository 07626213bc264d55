import numpy as np

from llm_numba.kvcache import PagedKVCache

cache = PagedKVCache(1, 6, 4, 1, 2, np.dtype("float32"), identity="storyteller")


def compute(token_ids):
    table = cache.new_table()
    found = table.adopt_prefix(token_ids)
    table.append_slots(len(token_ids) - found)  # their keys and values are computed now
    table.register(token_ids)
    print(f"{found} of {len(token_ids)} tokens found, blocks {table.blocks}")
    return table


story = [11, 12, 13, 14, 15, 16, 17, 18]
first = compute([*story, 1, 2])
second = compute([*story, 3, 4, 5, 6])
first.free()
second.free()
allocator = cache.allocator
print(f"{allocator.num_free} blocks are free, {allocator.num_kept} of them are kept")

stranger = cache.new_table()
stranger.append_slots(17)
print(f"a stranger got blocks {stranger.blocks}, {allocator.num_kept} are kept")
stranger.free()
third = compute([*story, 7])
