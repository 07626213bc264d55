from llm_numba.models import load_config, resolve_model
from llm_numba.planner.steps import layer_weights

config = load_config(resolve_model("random:llama-3-8b"))
E, F, H, D = config.hidden_size, config.intermediate_size, config.num_heads, config.head_dim
_, out, gate_up, down = layer_weights(config)
for tokens in (1, 512):
    # Numbers that the two products move, and what kernels of their own would move besides.
    close = out + tokens * (H * D + 2 * E)
    add = tokens * 2 * E  # the product is written, and read by the addition
    gated = gate_up + tokens * (E + F)
    silu_mul = tokens * 4 * F  # gate and up are written, and read by SiLU-mul
    print(f"{tokens:3} tokens: addition {add / (close + add):7.3%} of the bytes of both,",
          f"SiLU-mul {silu_mul / (gated + silu_mul):7.3%}")  # fmt: skip
