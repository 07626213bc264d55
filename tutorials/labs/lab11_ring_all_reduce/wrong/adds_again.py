"""The all-gather adds what it receives, where it should put it in place."""
# Rejected: step 3, "hands the sums to all": x after all_gather on rank 0 of 2


def all_gather(comm, x):
    ends = chunk_ends(x.size, comm.size)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for step in range(comm.size - 1):
        give, take = (comm.rank + 1 - step) % comm.size, (comm.rank - step) % comm.size
        sending = comm.start_send(x[ends[give] : ends[give + 1]], right)
        received = np.empty(ends[take + 1] - ends[take], np.float32)
        comm.receive(received, left)
        x[ends[take] : ends[take + 1]] += received
        sending.wait()
    return x
