"""The first shuffle is missing: lanes 16 to 31 are added to nothing."""
# Rejected: step 2, "adds up rows of any length": numbers


@cuda.jit(device=True)
def warp_sum(value):
    for distance in (8, 4, 2, 1):
        value += cuda.shfl_xor_sync(EVERY_LANE, value, distance)
    return value
