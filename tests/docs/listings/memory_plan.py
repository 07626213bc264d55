import ml_dtypes
import numpy as np

from llm_numba.engine.memory import MemoryOptions, layer_bytes, plan_memory
from llm_numba.models import load_config, resolve_model

config = load_config(resolve_model("random:llama-3-8b"))
bfloat16 = np.dtype(ml_dtypes.bfloat16)
plan = plan_memory(config, bfloat16, "cuda", MemoryOptions(max_model_len=8192), 80 * 2**30)
for name, num_bytes in {
    "weights": plan.needs.weights,
    "activations": plan.needs.activations,
    "reserve": plan.needs.reserve,
    "KV cache": plan.kv_cache,
    "all": plan.taken,
}.items():
    print(f"{name:12}{num_bytes / 2**30:7.2f} GiB")
print(f"{plan.num_blocks * 16:,} tokens, a block has {plan.block_bytes / 2**20:.0f} MiB")
print(f"a layer at its widest: {layer_bytes(config, bfloat16, 1) / 2**10:.0f} KiB a token")
