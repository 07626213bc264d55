def cache_tokens(free, L, G, D, item, block_size, P):
    # Tokens, not blocks; and G / P of a head where ranks are more than KV heads.
    return int(free // (2 * L * G / P * D * item))
