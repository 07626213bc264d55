"""Each lane keeps the largest score of its own keys."""
# Rejected: step 2, "attends": wrong


@cuda.jit(device=True)
def absorb(score, top, total, mixed):
    larger = max(top, score)
    base = larger if larger > NOTHING else float32(0)
    factor, power = math.exp(top - base), math.exp(score - base)
    return larger, total * factor + power, mixed * factor, power
