import numpy as np
import torch
import torch.nn.functional as F

H, G, T, D = 4, 2, 5, 8
rng = np.random.default_rng(0)
q = rng.normal(size=(T, H, D))
k, v = rng.normal(size=(2, T, G, D))

# A batch, then heads, then tokens.
q, k, v = (torch.tensor(x).transpose(0, 1)[None] for x in (q, k, v))
y = (
    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0]
    .transpose(0, 1)
    .numpy()
)

print(y.shape)
print(y.sum().round(6))
