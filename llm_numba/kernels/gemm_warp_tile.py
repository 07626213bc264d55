r"""The step of the GEMM ladder that gives each warp a tile of its own.

::

    block tile 128 x 128      warp tile 64 x 64        a thread's outputs: 8 x 16
    +--------+--------+
    | warp 0 | warp 1 |       lanes 0  1  4  5 |  0  1  4  5 | ..    16 times across
    +--------+--------+             2  3  6  7 |  2  3  6  7 | ..
    | warp 2 | warp 3 |             8  9 12 13 |  8  9 12 13 | ..    8 times down
    +--------+--------+            10 11 14 15 | 10 11 14 15 | ..
                                   16 17 20 21 | ..
                                    :

*Why a warp tile.* For a step along k a warp needs all rows and all columns of its tile, and makes
their products. Two rows of 16 threads with 8 x 8 outputs each took 16 + 128 numbers for 2,048
multiply-adds. A square needs the fewest: 64 + 64 for 4,096.

*Why 8 x 16 a thread.* 24 loads for 512 multiply-adds, where 8 x 8 took 16 for 256. A quarter of an
SM starts one instruction a cycle, so that whatever is not a multiply-add takes the place of one.
More outputs do not fit: 128 sums are half of the registers that a thread can have.

*Why these lanes.* A request of 16 bytes a lane is served by quarters of a warp. Two quarters of a
half go together if in them each lane wants the same as its neighbour, or each the same as the lane
two further on. Lanes 0 and 1, 2 and 3, .. share a row of A; lanes 0 and 2, 1 and 3, .. a column of
W. So either request takes two passes, where others take four.

Sources: Kerr, Merrill, Demouth and Tran, "CUTLASS: Fast Linear Algebra in CUDA C++", 2017.
"""

import functools
from typing import Any

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_config import WARP, Config
from llm_numba.kernels.gemm_pieces import QUAD, STORED, pitch_of, products, storing


@cuda.jit(device=True)
def lane_place(lane):
    """Return a lane's row and column among the 8 x 4 lanes of a warp."""
    row = lane >> 1 & 1 | lane >> 2 & 6
    return row, lane & 1 | lane >> 1 & 2


@functools.cache
def warp_tile(storage: str, config: Config) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float32", "float16", "bfloat16"}
    config : Config
        Its splits do not matter.
    """
    ROWS, COLUMNS, WARP_ROWS, WARP_COLUMNS, PACKETS, *_ = config
    ACROSS, THREADS = config.warps_along_columns, config.threads
    WIDTH, FORM = ptx.VECTOR[storage], STORED[storage]
    SLAB = config.slab(storage)
    PITCH = pitch_of(storage, SLAB)
    TOGETHER = THREADS // PACKETS  # rows that all threads of a block copy at once
    STAGE = (ROWS + COLUMNS) * PITCH
    BOTH = 2 * STAGE
    PER_ROW, PER_COLUMN = config.outputs[:2]
    PASSING = PER_COLUMN * THREADS
    load_rows, multiply = products(storage, SLAB, config.outputs)
    store = storing(config.outputs, THREADS)

    @cuda.jit(device=True)
    def begin(tiles, at, rows, matrix, first, row, k):
        """Begin to copy rows of a matrix: its last row for later ones, zeros beyond K."""
        K, last = matrix.shape[1], matrix.shape[0] - 1
        for i in range(0, rows, TOGETHER):
            source = min(first + row + i, last) * K + k
            ptx.cp_async16_or_zeros(tiles, at + i * PITCH, matrix, source, k < K)

    @cuda.jit(launch_bounds=(THREADS, config.blocks))
    def gemm_warp_tile(a, w, bias, residual, activation, c):
        """Give each warp a square of outputs, and each thread 8 x 16 of them."""
        t = cuda.threadIdx.x
        lane_row, lane_column = lane_place(t % WARP)
        row = t // WARP // ACROSS * WARP_ROWS + lane_row
        column = t // WARP % ACROSS * WARP_COLUMNS + lane_column
        first_row, first_column = cuda.blockIdx.x * ROWS, cuda.blockIdx.y * COLUMNS
        tiles = cuda.shared.array(BOTH, FORM)
        passing = cuda.shared.array(PASSING, float32)
        total = cuda.local.array((PER_ROW, PER_COLUMN), float32)
        a_part = cuda.local.array((PER_ROW, QUAD), float32)
        for i in range(PER_ROW):
            for j in range(PER_COLUMN):
                total[i, j] = float32(0)

        bringing, place = t // PACKETS, t % PACKETS * WIDTH
        to_a, to_w = bringing * PITCH + place, (ROWS + bringing) * PITCH + place
        begin(tiles, to_a, ROWS, a, first_row, bringing, place)
        begin(tiles, to_w, COLUMNS, w, first_column, bringing, place)
        ptx.cp_async_commit()
        here, other = 0, STAGE
        for k in range(SLAB + place, a.shape[1] + SLAB + place, SLAB):
            ptx.cp_async_wait(0)
            cuda.syncthreads()
            begin(tiles, other + to_a, ROWS, a, first_row, bringing, k)
            begin(tiles, other + to_w, COLUMNS, w, first_column, bringing, k)
            ptx.cp_async_commit()
            for s in range(0, SLAB, QUAD):
                load_rows(tiles, here + row * PITCH + s, a_part)
                multiply(tiles, here + (ROWS + column) * PITCH + s, a_part, total, 0)
            here, other = other, here
        row, column = first_row + row, first_column + column
        store(total, passing, t, row, column, bias, residual, activation, c)

    return gemm_warp_tile
