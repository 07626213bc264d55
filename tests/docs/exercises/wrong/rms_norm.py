import numpy as np


def rms_norm(x, weight, eps):
    # eps outside the root.
    return x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps) * weight
