import numpy as np

from llm_numba import LLM, ops
from llm_numba.models import load_model, open_model

llm = LLM("storyteller")
model = load_model(open_model(llm.model_dir), llm.dtype, num_positions=64)
config = model.config
H, G, D, eps = config.num_heads, config.num_kv_heads, config.head_dim, config.norm_eps

token_ids = llm.tokenizer.encode("Emma had a red ball. One day, Emma lost the red")
positions = np.arange(len(token_ids))

residual = ops.embedding(np.array(token_ids), model.embed_tokens)  # [S, E]
for layer in model.layers:
    x = ops.rms_norm(residual, layer.input_norm, eps)
    heads = ops.linear(x, layer.qkv).reshape(len(x), H + 2 * G, D)
    q, k, v = heads[:, :H], heads[:, H : H + G], heads[:, H + G :]
    q = ops.rope(q, positions, model.cos, model.sin)
    k = ops.rope(k, positions, model.cos, model.sin)
    mixed = ops.causal_attention(q, k, v, scale=D**-0.5)
    residual = residual + ops.linear(mixed.reshape(len(x), H * D), layer.out)

    x = ops.rms_norm(residual, layer.post_attention_norm, eps)
    residual = residual + ops.linear(ops.silu_mul(ops.linear(x, layer.gate_up)), layer.down)

logits = ops.linear(ops.rms_norm(residual, model.final_norm, eps), model.lm_head)  # [S, V]

engine = llm.logits(token_ids)
assert np.abs(logits - engine).max() < 1e-4 * np.abs(engine).max()
best = int(logits[-1].argmax())
print(f"logits {list(logits.shape)}; the likeliest next token is {llm.tokenizer.decode([best])!r}")
