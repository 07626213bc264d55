import numpy as np
import torch

rng = np.random.default_rng(0)
x = rng.normal(size=(4, 1000))
x = x.astype(np.float32)

gpu = torch.cuda.is_available()
device = "cuda" if gpu else "cpu"
on_device = torch.tensor(x, device=device)
y = torch.softmax(on_device, dim=-1)

print(y.cpu().numpy().sum(axis=1).round(4))
