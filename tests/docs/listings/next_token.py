import numpy as np

from llm_numba import LLM, ops

llm = LLM()
prompt = "Once upon a time there was a"
logits = llm.logits(llm.tokenizer.encode(prompt))[-1:]  # [1, V]


def show(what, probs):
    left = np.count_nonzero(probs)
    best = np.argsort(-probs[0], kind="stable")[: min(4, left)]
    words = "  ".join(f"{llm.tokenizer.decode([i])!r} {probs[0, i]:.3f}" for i in best)
    print(f"{what:16}{words}  ({left} left)")


def one(value):
    return np.array([value])


def distribution(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    return ops.sampling_probabilities(logits, one(temperature), one(top_k), one(top_p), one(min_p))


show("as it is", distribution())
show("temperature 2", distribution(temperature=2.0))
show("temperature 0.5", distribution(temperature=0.5))
show("top-k 3", distribution(top_k=3))
show("top-p 0.9", distribution(top_p=0.9))
show("min-p 0.1", distribution(min_p=0.1))
