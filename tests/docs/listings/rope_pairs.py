import numpy as np

from llm_numba import LLM, SamplingParams, ops
from llm_numba.models import load_model, open_model

llm = LLM("storyteller")
model = load_model(open_model(llm.model_dir), llm.dtype, num_positions=256)
config = model.config
H, G, D, eps = config.num_heads, config.num_kv_heads, config.head_dim, config.norm_eps
params = SamplingParams(temperature=0, max_tokens=100)
(story,) = llm.generate("Once upon a time", params)
token_ids = np.array(llm.tokenizer.encode(story.prompt + story.outputs[0].text))
positions, start = np.arange(len(token_ids)), len(story.prompt_token_ids) - 1
halves = np.arange(D)  # number i turns with i + D/2, as the weights were trained
neighbours = np.concatenate([np.arange(0, D, 2), np.arange(1, D, 2)])  # 2i with 2i + 1


def share_foreseen(order):
    def turn(x):
        turned = np.empty_like(x)
        turned[..., order] = ops.rope(x[..., order], positions, model.cos, model.sin)
        return turned

    r = ops.embedding(token_ids, model.embed_tokens)
    for layer in model.layers:
        x = ops.rms_norm(r, layer.input_norm, eps)
        heads = ops.linear(x, layer.qkv).reshape(len(x), H + 2 * G, D)
        q, k, v = turn(heads[:, :H]), turn(heads[:, H : H + G]), heads[:, H + G :]
        mixed = ops.causal_attention(q, k, v, scale=D**-0.5)
        r = r + ops.linear(mixed.reshape(len(x), H * D), layer.out)
        x = ops.rms_norm(r, layer.post_attention_norm, eps)
        r = r + ops.linear(ops.silu_mul(ops.linear(x, layer.gate_up)), layer.down)
    logits = ops.linear(ops.rms_norm(r, model.final_norm, eps), model.lm_head)
    # From the first word that the model wrote itself.
    return np.mean(logits[:-1].argmax(axis=1)[start:] == token_ids[start + 1 :])


print(f"number i with i + D/2: {share_foreseen(halves):.2f} of the words are the likeliest ones")
print(f"number 2i with 2i + 1: {share_foreseen(neighbours):.2f}")
