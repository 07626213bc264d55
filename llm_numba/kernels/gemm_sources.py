"""Which rows of A and W the threads of a block bring, and from where."""

import functools
from typing import Any

from numba import cuda, int32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_config import Config


@functools.cache
def aiming(storage: str, config: Config, gated: bool) -> Any:
    """Make the device function that finds where a thread's packets begin.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config
    gated : bool
        Whether half of a warp's columns come from the first half of W's rows, which are gates, and
        the others from the second, so that the thread which has a gate has what it multiplies.

    Returns
    -------
    device function
        ``aim(a, w, first_row, first_column, a_at, w_at)`` writes the elements at which they begin
        into two int32 arrays: relative to row ``first_row`` of A and row ``first_column`` of W, so
        that they fit. Rows beyond the last are the last.
    """
    PACKETS, WIDTH = config.packets, ptx.VECTOR[storage]
    TOGETHER = config.threads // PACKETS
    A_LOADS, W_LOADS = config.rows // TOGETHER, config.columns // TOGETHER
    WARP_COLUMNS = config.warp_columns
    SHARE = WARP_COLUMNS // 2 if gated else WARP_COLUMNS

    @cuda.jit(device=True)
    def source_row(row, first, rows):
        """Return the row of W that a row of its tile holds; beyond the last, the last."""
        if not gated:
            return min(first + row, rows - 1)
        column = first + row // WARP_COLUMNS * SHARE + row % SHARE
        return min(column, rows // 2 - 1) + row // SHARE % 2 * (rows // 2)

    @cuda.jit(device=True)
    def aim(a, w, first_row, first_column, a_at, w_at):
        """Find where a thread's packets begin: in 32 bits, relative to the block's first row."""
        place, top = cuda.threadIdx.x % PACKETS * WIDTH, cuda.threadIdx.x // PACKETS
        for i in range(A_LOADS):
            row = min(top + i * TOGETHER, a.shape[0] - 1 - first_row)
            a_at[i] = int32(row * a.shape[1] + place)
        for i in range(W_LOADS):
            row = source_row(top + i * TOGETHER, first_column, w.shape[0]) - first_column
            w_at[i] = int32(row * w.shape[1] + place)

    return aim
