"""Indices outside their array."""

from numba import cuda, float32

from .case import Case, ramp, zeros


@cuda.jit
def guard_off_by_one(x, out):
    i = cuda.grid(1)
    if i <= x.shape[0]:
        out[i] = float32(2) * x[i]  # FAULT: i = n slips through


@cuda.jit
def guard(x, out):
    i = cuda.grid(1)
    if i < x.shape[0]:
        out[i] = float32(2) * x[i]


@cuda.jit
def no_guard(x, out):
    i = cuda.grid(1)
    out[i] = float32(2) * x[i]  # FAULT: the grid is rounded up to whole blocks


@cuda.jit
def rows_and_columns_swapped(x, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = float32(2) * x[column, row]  # FAULT


@cuda.jit
def rows_and_columns(x, out):
    column, row = cuda.grid(2)
    if row < x.shape[0] and column < x.shape[1]:
        out[row, column] = float32(2) * x[row, column]


@cuda.jit
def window_before_the_start(x, out):
    """Difference to the number 20 earlier. An index of -1 is the last element, as in Python;
    one below -n is nothing at all.
    """
    i = cuda.grid(1)
    if i < x.shape[0]:
        out[i] = x[i] - x[i - 20]  # FAULT: i - 20 < -n where n = 10


@cuda.jit
def window_from_the_start(x, out):
    i = cuda.grid(1)
    if i < x.shape[0]:
        before = float32(0)
        if i >= 20:
            before = x[i - 20]
        out[i] = x[i] - before


@cuda.jit
def tile_without_halo(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    tile[t] = x[t]
    cuda.syncthreads()
    out[t] = tile[t] + tile[t + 1]  # FAULT: thread 31 wants tile[32]


@cuda.jit
def tile_with_halo(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(33, float32)
    tile[t] = x[t]
    if t == 0:
        tile[32] = x[32]
    cuda.syncthreads()
    out[t] = tile[t] + tile[t + 1]


@cuda.jit
def flat_index_by_height(x, height, width, out):
    column, row = cuda.grid(2)
    if row < height and column < width:
        out[row * width + column] = -x[row * width + height * column]  # FAULT


@cuda.jit
def flat_index_by_width(x, height, width, out):
    column, row = cuda.grid(2)
    if row < height and column < width:
        out[row * width + column] = -x[row * width + column]


@cuda.jit
def window_one_too_long(x, out):
    i = cuda.grid(1)
    window = cuda.local.array(4, float32)
    for k in range(5):
        window[k] = x[i + k]  # FAULT: the array of each thread has four
    out[i] = window[0] + window[3]


@cuda.jit
def window_of_four(x, out):
    i = cuda.grid(1)
    window = cuda.local.array(4, float32)
    for k in range(4):
        window[k] = x[i + k]
    out[i] = window[0] + window[3]


@cuda.jit
def beyond_dynamic_memory(x, out):
    """The launch asks for 32 numbers of dynamic shared memory."""
    t = cuda.threadIdx.x
    buffer = cuda.shared.array(0, float32)
    buffer[t + 16] = x[t]  # FAULT
    cuda.syncthreads()
    out[t] = buffer[16 + 31 - t]


@cuda.jit
def within_dynamic_memory(x, out):
    t = cuda.threadIdx.x
    buffer = cuda.shared.array(0, float32)
    buffer[t] = x[t]
    cuda.syncthreads()
    out[t] = buffer[31 - t]


CASES = (
    Case(
        "a guard off by one",
        guard_off_by_one,
        guard,
        args=lambda: (ramp(10), zeros(10)),
        want=lambda x, out: 2 * x,
        threads=(10,),
    ),
    Case(
        "a tail without a guard",
        no_guard,
        guard,
        args=lambda: (ramp(40), zeros(40)),
        want=lambda x, out: 2 * x,
        grid=2,
        threads=range(40, 64),
    ),
    Case(
        "rows and columns swapped",
        rows_and_columns_swapped,
        rows_and_columns,
        args=lambda: (ramp(15).reshape(3, 5), zeros(3, 5)),
        want=lambda x, out: 2 * x,
        block=(8, 4),
        # Columns 3 and 4 are taken for rows of which there are three.
        threads=(3, 4, 11, 12, 19, 20),
    ),
    Case(
        "a window that begins before the array",
        window_before_the_start,
        window_from_the_start,
        args=lambda: (ramp(10), zeros(10)),
        want=lambda x, out: x,
        threads=range(10),
    ),
    Case(
        "a shared tile without its halo",
        tile_without_halo,
        tile_with_halo,
        args=lambda: (ramp(33), zeros(32)),
        want=lambda x, out: x[:-1] + x[1:],
        threads=(31,),
    ),
    Case(
        "height for width in a flat index",
        flat_index_by_height,
        flat_index_by_width,
        args=lambda: (ramp(15), 5, 3, zeros(15)),
        want=lambda x, height, width, out: -x,
        block=(4, 8),
        # 3 row + 5 column >= 15.
        threads=(10, 14, 17, 18),
    ),
    Case(
        "a local array one too short",
        window_one_too_long,
        window_of_four,
        args=lambda: (ramp(40), zeros(32)),
        want=lambda x, out: x[:32] + x[3:35],
    ),
    Case(
        "dynamic shared memory beyond what the launch gives",
        beyond_dynamic_memory,
        within_dynamic_memory,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: x[::-1],
        shared_bytes=128,
        threads=range(16, 32),
    ),
)
