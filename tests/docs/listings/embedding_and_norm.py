import numpy as np

from llm_numba import ops
from llm_numba.models import Tokenizer, load_model, open_model, resolve_model

directory = resolve_model("storyteller")
model = load_model(open_model(directory), np.dtype("float32"), num_positions=64)
token_ids = Tokenizer(directory).encode("Emma lost the red")  # S = 5, with <|begin|>

residual = ops.embedding(np.array(token_ids), model.embed_tokens)
print("E =", model.config.hidden_size, " residual stream", list(residual.shape))


def rms(x):
    return np.sqrt(np.mean(x * x, axis=-1))


x = ops.rms_norm(residual, np.ones_like(residual[0]), eps=model.config.norm_eps)
print("root mean square before:", np.round(rms(residual), 3))
print("                  after:", np.round(rms(x), 3))

weight = model.layers[0].input_norm  # [E]: what training made of the plain norm
print(f"norm weights of layer 0: {weight.min():.2f} to {weight.max():.2f}")
