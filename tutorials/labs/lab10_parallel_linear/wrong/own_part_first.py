"""Each rank adds the others' parts to its own: the order of the sum differs by rank."""
# Rejected: step 2, "has the same bits everywhere, by one all-reduce": other bits on rank


def row_parallel(comm, x, weight, bias):
    mine = x @ weight.T
    parts = comm.all_gather(mine[None])
    for other in range(comm.size):
        if other != comm.rank:
            mine = mine + parts[other]
    return mine + bias
