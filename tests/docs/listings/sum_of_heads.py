import numpy as np

from llm_numba import ops
from llm_numba.models import load_model, open_model, resolve_model

model = load_model(open_model(resolve_model("storyteller")), np.dtype("float32"), num_positions=64)
H, D, out = model.config.num_heads, model.config.head_dim, model.layers[0].out  # [E, H D]
mixed = np.random.default_rng(0).normal(size=(3, H, D)).astype(np.float32)  # three tokens

joined = ops.linear(mixed.reshape(3, H * D), out)
one_by_one = sum(ops.linear(mixed[:, h], out[:, h * D : (h + 1) * D]) for h in range(H))
assert np.allclose(joined, one_by_one, atol=1e-5)
print(f"{H} products of [3, {D}] added up: the same as one of [3, {H * D}]")

ranks = [
    ops.linear(mixed[:, part].reshape(3, -1), out[:, columns])
    for part, columns in ((slice(0, 4), slice(0, 4 * D)), (slice(4, 8), slice(4 * D, None)))
]
assert np.allclose(joined, ranks[0] + ranks[1], atol=1e-5)
print("two ranks with four heads each: two parts of the same sum")
