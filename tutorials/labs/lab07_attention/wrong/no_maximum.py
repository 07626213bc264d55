"""Powers are taken of the scores as they are."""
# Rejected: step 2, "is stable": wrong


@cuda.jit(device=True)
def absorb(score, top, total, mixed):
    power = math.exp(score)
    return top, total + power, mixed, power
