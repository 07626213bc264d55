"""The grid is rounded down: the elements of the last block are left out."""
# Rejected: step 2, "reaches every element": empty grid


def launch_saxpy(alpha, x, y, out):
    """Launch `saxpy` on vectors of any length.

    Requirements: one launch, in blocks of ``THREADS`` threads, with as few blocks as reach every
    element.

    Parameters
    ----------
    alpha : float32
    x, y, out : float32 [N]
        On the device.
    """
    blocks = out.size // THREADS
    launch(saxpy, blocks, THREADS, (alpha, x, y, out))
