"""Of ranks with equal logits the last one wins."""
# Rejected: step 4, "never lets padding win, nor the last of equals": next_tokens(...)


def next_tokens(comm, x, head_part, vocabulary):
    rows = len(head_part)
    first = comm.rank * rows
    logits = x @ head_part.T
    logits[:, max(0, vocabulary - first) :] = -np.inf
    best = logits.argmax(axis=1)
    mine = np.stack([logits[np.arange(len(x)), best], first + best], axis=1)
    everybody = comm.all_gather(mine[None].astype(np.float64))
    winner = comm.size - 1 - everybody[::-1, :, 0].argmax(axis=0)
    return everybody[winner, np.arange(len(x)), 1].astype(np.int64)
