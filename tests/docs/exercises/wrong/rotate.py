import math


def rotate(x, position, base):
    # Pairs of neighbours, as the paper draws them and these weights do not want them.
    out = [0.0] * len(x)
    for i in range(0, len(x), 2):
        angle = position * base ** (-i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
        out[i + 1] = x[i + 1] * math.cos(angle) + x[i] * math.sin(angle)
    return out
