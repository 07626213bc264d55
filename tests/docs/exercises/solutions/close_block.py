def close_block(heads, weight, residual):
    y = residual.copy()
    for h, mixed in enumerate(heads):
        D = mixed.shape[1]
        y += mixed @ weight[:, h * D : (h + 1) * D].T
    return y
