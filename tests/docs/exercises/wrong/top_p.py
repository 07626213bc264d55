import numpy as np


def top_p(probs, p):
    # Drops the token that crosses p, so the rest falls short of it.
    order = np.argsort(-probs)
    kept = np.zeros_like(probs)
    keep = order[np.cumsum(probs[order]) <= p]
    kept[keep if len(keep) else order[:1]] = probs[keep if len(keep) else order[:1]]
    return kept / kept.sum()
