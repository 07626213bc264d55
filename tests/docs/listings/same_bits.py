import numpy as np

from llm_numba import LLM
from llm_numba.models import Execution

llm = LLM("storyteller", execution=Execution(batch_invariant=True))
token_ids = llm.tokenizer.encode("Once upon a time there was a girl")
alone = llm.logits(token_ids[:3])
among_others = llm.logits(token_ids)[:3]
print(np.array_equal(alone, among_others))
