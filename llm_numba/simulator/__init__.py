"""A simulator that runs `numba.cuda` kernels without a GPU and explains what they cost."""
