def append_slots(blocks, num_tokens, count, block_size, take):
    slots = []
    for position in range(num_tokens, num_tokens + count):
        if position == len(blocks) * block_size:
            blocks.append(take())
        slots.append(blocks[position // block_size] * block_size + position % block_size)
    return slots
