"""What was mixed before does not shrink when a larger score comes."""
# Rejected: step 2, "attends": wrong


@cuda.jit(device=True)
def absorb(score, top, total, mixed):
    larger = max(top, score)
    for distance in (16, 8, 4, 2, 1):
        larger = max(larger, cuda.shfl_xor_sync(FULL_WARP, larger, distance))
    base = larger if larger > NOTHING else float32(0)
    factor, power = math.exp(top - base), math.exp(score - base)
    return larger, total * factor + power, mixed, power
