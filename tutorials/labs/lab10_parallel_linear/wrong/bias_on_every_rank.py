"""Each rank adds the bias to its part of the sum: it counts P times."""
# Rejected: step 2, "adds up all parts, and the bias once": on rank 0 of 2


def row_parallel(comm, x, weight, bias):
    return comm.all_reduce(x @ weight.T + bias)
