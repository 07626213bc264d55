"""Blocking sends: with more groups than stages everybody waits, stage 0 as well."""
# Rejected: step 3, "draws the tokens of one program": Deadlock


def decode_rounds(comm, weight, groups, rounds):
    first, last = 0, comm.size - 1
    chosen = [[] for _ in groups]
    # A round more: in it stage 0 only takes the last tokens.
    for turn in range((rounds + 1) * len(groups)):
        number, group = turn // len(groups), turn % len(groups)
        tokens = groups[group]
        if comm.rank == first and number > 0:
            tokens = np.empty_like(tokens)
            comm.receive(tokens, last)
            chosen[group].append(tokens)
        if number == rounds:
            continue
        if comm.rank == first:
            x = embed(tokens, len(weight))
        else:
            x = np.empty((len(tokens), len(weight)), np.float32)
            comm.receive(x, comm.rank - 1)
        y = layer(comm, x, weight, f"{group}")
        if comm.rank == last:
            comm.send(choose(y), first)
        else:
            comm.send(y, comm.rank + 1)
    return chosen if comm.rank == first else []
