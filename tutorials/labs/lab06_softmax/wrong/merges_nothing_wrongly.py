"""Two parts of nothing subtract minus infinity from itself."""
# Rejected: step 2, "merges parts far apart, and parts of nothing": nan


@cuda.jit(device=True)
def merge(top_a, total_a, top_b, total_b):
    top = max(top_a, top_b)
    return top, total_a * math.exp(top_a - top) + total_b * math.exp(top_b - top)
