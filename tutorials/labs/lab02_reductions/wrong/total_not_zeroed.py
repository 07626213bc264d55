"""The total begins with whatever lay in its memory."""
# Rejected: step 4, "is launched so that the sum begins at zero": nan

from llm_numba.runtime import empty, launch


def launch_vector_sum(x):
    """Return the sum of a vector.

    Requirements: one launch of `vector_sum`, of ``BLOCKS`` blocks. Nothing says what an array from
    ``empty`` holds; one from ``zeros`` holds zeros.

    Parameters
    ----------
    x : float32 [N]
        On the device.

    Returns
    -------
    float32 [1]
        On the device.
    """
    out = empty(1, float32)
    launch(vector_sum, BLOCKS, THREADS, (x, out))
    return out
