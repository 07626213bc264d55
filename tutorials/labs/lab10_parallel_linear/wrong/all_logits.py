"""All logits are brought together: right, but V numbers a row are sent."""
# Rejected: step 4, "sends two numbers a row": all_gather of 40


def next_tokens(comm, x, head_part, vocabulary):
    rows = len(head_part)
    first = comm.rank * rows
    logits = x @ head_part.T
    logits[:, max(0, vocabulary - first) :] = -np.inf
    return comm.all_gather(np.ascontiguousarray(logits.T)).argmax(axis=0)
