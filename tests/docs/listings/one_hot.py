import numpy as np

from llm_numba import ops
from llm_numba.models import load_config, load_model, open_model, resolve_model

model = load_model(open_model(resolve_model("storyteller")), np.dtype("float32"), num_positions=64)
V, E = model.embed_tokens.shape
token_ids = np.array([7, 300, 7])
one_hot = np.zeros((len(token_ids), V), np.float32)
one_hot[np.arange(len(token_ids)), token_ids] = 1
assert np.array_equal(one_hot @ model.embed_tokens, ops.embedding(token_ids, model.embed_tokens))

large = load_config(resolve_model("random:llama-3-8b"))
for name, rows, width in (("storyteller", V, E), ("8B", large.vocab_size, large.hidden_size)):
    print(f"{name:12}product: {2 * rows * width:13,} FLOPs a token    lookup: {width:5,} numbers")
