from llm_numba.models import load_config, resolve_model
from llm_numba.planner import GPUS, LINKS
from llm_numba.planner.steps import layer_weights

card, link = GPUS["h100"], LINKS["pcie-5"]
config = load_config(resolve_model("random:llama-3-70b"))
L, G, D = config.num_layers, config.num_kv_heads, config.head_dim
weights = L * sum(layer_weights(config)) + config.vocab_size * config.hidden_size
print(f"70B: {weights / 1e9:.1f} G numbers to read for a token, one card has "
      f"{card.memory_bytes / 1e9:.0f} GB")  # fmt: skip
for bits in (16, 8, 4):
    size = weights * bits / 8
    fits = "fits" if size < 0.9 * card.memory_bytes else "does not fit"
    print(f"  {bits:2} bits: {size / 1e9:5.1f} GB, {fits}; "
          f"read in {1e3 * size / card.bytes_per_second:.1f} ms at best")  # fmt: skip
left = 2 * weights - 0.9 * card.memory_bytes
print(f"  16 bits, what does not fit in host memory: {left / 1e9:.1f} GB over PCIe a token, "
      f"{1e3 * left / link.bytes_per_second:,.0f} ms")  # fmt: skip
token = 2 * L * G * D * 2
for context in (4096, 32768):
    kv = context * token
    print(f"keys and values of {context:6,} tokens: {kv / 1e9:5.2f} GB, "
          f"{1e3 * kv / card.bytes_per_second:.2f} ms from the card, "
          f"{1e3 * kv / link.bytes_per_second:.1f} ms from the host")  # fmt: skip
