"""Two empty parts divide by a count of zero."""
# Rejected: step 4, "merges two parts of a row": nan


@cuda.jit(device=True)
def merge(count_a, mean_a, squares_a, count_b, mean_b, squares_b):
    count = count_a + count_b
    share = count_b / count
    distance = mean_b - mean_a
    mean = mean_a + distance * share
    squares = squares_a + squares_b + distance * distance * count_a * share
    return count, mean, squares
