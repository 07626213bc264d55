"""Each share is the whole quotient: what does not divide belongs to nobody."""
# Rejected: step 1, "shares everything, once": the shares of 13 things


def share(count, ranks, rank):
    return count // ranks * rank, count // ranks * (rank + 1)
