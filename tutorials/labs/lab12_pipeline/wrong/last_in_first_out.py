"""The micro-batches come out in the opposite order."""
# Rejected: step 2, "computes what one program would": micro-batch 0 of


def run_micro_batches(comm, weight, batches):
    outputs, sending = [], []
    for number, x in enumerate(batches):
        if comm.rank > 0:
            comm.receive(x, comm.rank - 1)
        y = layer(comm, x, weight, f"{number}")
        if comm.rank == comm.size - 1:
            outputs.insert(0, y)
        else:
            sending.append(comm.start_send(y, comm.rank + 1))
    for transfer in sending:
        transfer.wait()
    return outputs
