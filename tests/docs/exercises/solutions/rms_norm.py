def rms_norm(x, weight, eps):
    out = []
    for row in x:
        mean_square = sum(value * value for value in row) / len(row)
        scale = (mean_square + eps) ** -0.5
        out.append([value * scale * w for value, w in zip(row, weight, strict=True)])
    return out
