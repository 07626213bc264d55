"""One block more than needed, where the length is a multiple of the block."""
# Rejected: step 2, "uses one launch and no block too many": 256 elements need 1 x 256


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
    blocks = out.size // THREADS + 1
    launch(saxpy, blocks, THREADS, (alpha, x, y, out))
