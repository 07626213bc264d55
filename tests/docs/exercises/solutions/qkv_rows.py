def qkv_rows(rank, P, H, G, D):
    queries = range(rank * H // P, (rank + 1) * H // P)
    first = rank * G // P
    keys = range(first, first + max(1, G // P))
    heads = [*queries, *(H + g for g in keys), *(H + G + g for g in keys)]
    return [head * D + d for head in heads for d in range(D)]
