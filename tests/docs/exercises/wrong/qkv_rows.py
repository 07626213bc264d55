def qkv_rows(rank, P, H, G, D):
    # Equal parts of the stack: rank 0 would have queries only.
    rows = (H + 2 * G) * D
    return list(range(rank * rows // P, (rank + 1) * rows // P))
