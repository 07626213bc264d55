from math import prod

from llm_numba.models import parse_config
from llm_numba.models.gpt2 import gpt2_tensors
from llm_numba.models.llama import llama_tensors

# The sizes that the published config.json files state.
LLAMA, QWEN2, QWEN3 = "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
GPT2, MISTRAL = "GPT2LMHeadModel", "MistralForCausalLM"
MODELS = {  # hidden, layers, query heads, KV heads, head_dim, MLP, vocabulary
    "GPT-2 small": (GPT2, 768, 12, 12, 12, 64, 3072, 50257),
    "GPT-2 XL": (GPT2, 1600, 48, 25, 25, 64, 6400, 50257),
    "Llama 2 7B": (LLAMA, 4096, 32, 32, 32, 128, 11008, 32000),
    "Llama 3 8B": (LLAMA, 4096, 32, 32, 8, 128, 14336, 128256),
    "Llama 3 70B": (LLAMA, 8192, 80, 64, 8, 128, 28672, 128256),
    "Mistral 7B": (MISTRAL, 4096, 32, 32, 8, 128, 14336, 32000),
    "Qwen2 7B": (QWEN2, 3584, 28, 28, 4, 128, 18944, 152064),
    "Qwen3 8B": (QWEN3, 4096, 36, 32, 8, 128, 12288, 151936),
}

print("model          layer/H²  parameters  16-bit weights  KV bytes a token (16-bit)")
for name, (family, hidden, layers, heads, kv_heads, head_dim, mlp, vocab) in MODELS.items():
    shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    shape |= {"num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": mlp}
    if family == GPT2:
        shape = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_inner": mlp}
    config = parse_config({"architectures": [family], "vocab_size": vocab, **shape})
    tensors = gpt2_tensors(config, "") if family == GPT2 else llama_tensors(config)
    total = sum(map(prod, tensors.values()))
    layer = sum(prod(s) for n, s in tensors.items() if ".0." in n) / hidden**2
    kv_bytes = 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
    print(f"{name:14} {layer:8.1f} {total / 1e9:9.2f} G {2 * total / 1e9:12.1f} GB {kv_bytes:12,}")
