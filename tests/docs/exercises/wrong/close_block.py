def close_block(heads, weight, residual):
    # Adds the residual stream once for each head.
    y = 0
    for h, mixed in enumerate(heads):
        D = mixed.shape[1]
        y = y + mixed @ weight[:, h * D : (h + 1) * D].T + residual
    return y
