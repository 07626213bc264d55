def append_slots(blocks, num_tokens, count, block_size, take):
    # Takes the position for the slot, as if block i were always the sequence's i-th.
    while len(blocks) * block_size < num_tokens + count:
        blocks.append(take())
    return list(range(num_tokens, num_tokens + count))
