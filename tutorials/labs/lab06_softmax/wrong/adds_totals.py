"""The totals are added as if both parts had the same top."""
# Rejected: step 2, "merges parts": total


@cuda.jit(device=True)
def merge(top_a, total_a, top_b, total_b):
    top = max(top_a, top_b)
    return top, total_a + total_b
