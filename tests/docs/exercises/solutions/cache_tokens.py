def cache_tokens(free, L, G, D, item, block_size, P):
    heads = max(1, G // P)
    block = block_size * 2 * L * heads * D * item
    return free // block * block_size
