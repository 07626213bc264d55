"""Chunks of n // P numbers: the last numbers of an uneven array belong to nobody."""
# Rejected: step 1, "cuts even chunks that are everything, once": 5 numbers from 0 to 13


def chunk_ends(length, ranks):
    return [length // ranks * chunk for chunk in range(ranks + 1)]
