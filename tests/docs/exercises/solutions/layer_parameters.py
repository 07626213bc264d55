def layer_parameters(E, F, H, G, D):
    attention = (H + 2 * G) * D * E + E * H * D
    mlp = 3 * E * F
    return attention + mlp + 2 * E
