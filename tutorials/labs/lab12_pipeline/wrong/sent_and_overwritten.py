"""One buffer for all that is sent: the next micro-batch overwrites the one under way."""
# Rejected: step 2, "computes what one program would": written before its transfer


def run_micro_batches(comm, weight, batches):
    outputs, sending = [], []
    buffer = np.empty((9, len(weight)), np.float32)
    for number, x in enumerate(batches):
        if comm.rank > 0:
            comm.receive(x, comm.rank - 1)
        y = buffer[: len(x)]
        y[:] = layer(comm, x, weight, f"{number}")
        if comm.rank == comm.size - 1:
            outputs.append(y.copy())
        else:
            sending.append(comm.start_send(y, comm.rank + 1))
    for transfer in sending:
        transfer.wait()
    return outputs
