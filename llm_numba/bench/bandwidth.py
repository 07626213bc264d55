"""How fast this machine reads weights: the ceiling of decoding."""

import time

import numpy as np

_COLUMNS = 4096


def weight_bandwidth(megabytes: float, repeats: int, warmup: int) -> list[float]:
    """Read a matrix once, as a product with one vector does, with BLAS and its threads.

    Parameters
    ----------
    megabytes : float
        Size of the float32 matrix; it should be far larger than the processor's caches.
    repeats, warmup : int
        Counted and uncounted products.

    Returns
    -------
    list of float
        GB/s of each counted product; bytes of the matrix alone.
    """
    rows = max(1, int(megabytes * 1e6) // (4 * _COLUMNS))
    matrix = np.ones((rows, _COLUMNS), np.float32)
    vector = np.ones((_COLUMNS, 1), np.float32)
    rates = []
    for _ in range(warmup + repeats):
        begin = time.perf_counter()
        matrix @ vector
        rates.append(matrix.nbytes / (time.perf_counter() - begin) / 1e9)
    return rates[warmup:]
