import numpy as np

from llm_numba import ops
from llm_numba.models import load_model, open_model, resolve_model

model = load_model(open_model(resolve_model("storyteller")), np.dtype("float32"), num_positions=64)
E, F = model.config.hidden_size, model.config.intermediate_size
layer = model.layers[0]
print("gate and up in one:", list(layer.gate_up.shape), " down:", list(layer.down.shape))

x = np.random.default_rng(0).normal(size=(3, E)).astype(np.float32)  # three tokens
gate_up = ops.linear(x, layer.gate_up)  # [3, 2F]
inner = ops.silu_mul(gate_up)  # [3, F]
y = ops.linear(inner, layer.down)  # [3, E]
print([list(a.shape) for a in (x, gate_up, inner, y)])

gate, up = gate_up[:, :F], gate_up[:, F:]
assert np.allclose(inner, gate / (1 + np.exp(-gate)) * up, atol=1e-6)
print(f"FLOPs a token: {2 * layer.gate_up.size + 2 * layer.down.size:,}")
