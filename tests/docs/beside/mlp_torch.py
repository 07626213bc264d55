import numpy as np
import torch
import torch.nn.functional as F

N, E, width = 3, 8, 16
rng = np.random.default_rng(0)
x = torch.tensor(rng.normal(size=(N, E)))
norm = torch.tensor(rng.normal(size=E))
gate, up = torch.tensor(rng.normal(size=(2, width, E)))
down = torch.tensor(rng.normal(size=(E, width)))

n = F.rms_norm(x, (E,), norm, 1e-5)
hidden = F.silu(F.linear(n, gate))
hidden = hidden * F.linear(n, up)
y = x + F.linear(hidden, down)

print(y.sum().numpy().round(6))
