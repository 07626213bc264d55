"""
Transpose, and the 32 banks
===========================

Turning a matrix on its side computes nothing at all, and the obvious kernel for it is slow. We mend
it with a tile in shared memory, find that the tile has a problem of its own, and mend that with one
column that nobody uses.
"""

# %%
# Either the loads or the stores
# ------------------------------
#
# Element ``x[i, j]`` goes to ``y[j, i]``. Give each element a thread, and let neighbouring threads
# take neighbours of a row of x. Their loads lie side by side. Their stores do not.

import numpy as np
from numba import cuda, float32

from llm_numba.microscope import compare
from llm_numba.simulator import RaceError, simulate

M, N = 96, 80
x = np.arange(M * N, dtype=np.float32).reshape(M, N)


@cuda.jit
def transpose_naive(x, y):
    """An element a thread."""
    j, i = cuda.grid(2)
    if i < x.shape[0] and j < x.shape[1]:
        y[j, i] = x[i, j]


TILE = 32
grid = (-(-N // TILE), -(-M // TILE))


def run(kernel, block=(TILE, TILE)):
    """Launch, compare, and return what it cost."""
    y = np.full((N, M), np.nan, np.float32)
    report = simulate(kernel, grid, block, (x, y))
    assert np.array_equal(y, x.T)
    print(
        f"{kernel.__name__:18s} {report.global_sectors:6d} sectors (ideally"
        f" {report.ideal_sectors}), {report.shared_wavefronts:5d} passes over shared memory"
    )
    return report


naive = run(transpose_naive)

# %%
# Swapping i and j does not help: then the stores are tidy and the loads are not. One of the two
# always walks down a column, and each number of a column lies in a sector of its own.
#
# A tile in shared memory
# -----------------------
#
# Shared memory is small, close, and belongs to one block. It has no sectors: a warp may touch 32
# words anywhere in it. So let a block of 32 x 32 threads carry a tile through it. Read rows of x
# and write them into the tile as rows; wait until all have; then read *columns* of the tile, which
# are rows of y.


@cuda.jit
def transpose_tile(x, y):
    """A tile of 32 x 32 through shared memory."""
    tile = cuda.shared.array((TILE, TILE), float32)
    across, down = cuda.threadIdx.x, cuda.threadIdx.y
    j, i = cuda.blockIdx.x * TILE + across, cuda.blockIdx.y * TILE + down
    if i < x.shape[0] and j < x.shape[1]:
        tile[down, across] = x[i, j]
    cuda.syncthreads()
    j, i = cuda.blockIdx.x * TILE + down, cuda.blockIdx.y * TILE + across
    if i < x.shape[0] and j < x.shape[1]:
        y[j, i] = tile[across, down]


tile = run(transpose_tile)

# %%
# The sectors are now as few as they can be. (The barrier is no decoration. A thread reads what
# another wrote, and without it might read too early. The simulator says so, whichever of the two
# happened to come first.)


@cuda.jit
def transpose_hasty(x, y):
    """A tile, and no barrier."""
    tile = cuda.shared.array((TILE, TILE), float32)
    across, down = cuda.threadIdx.x, cuda.threadIdx.y
    tile[down, across] = x[down, across]
    y[down, across] = tile[across, down]


try:
    simulate(transpose_hasty, 1, (TILE, TILE), (x, np.zeros((N, M), np.float32)))
except RaceError as fault:
    print(fault.cause.partition(": ")[2])

# %%
# Thirty-two banks
# ----------------
#
# Shared memory is cut into 32 **banks**. Word 0 lies in bank 0, word 1 in bank 1, word 32 in bank
# 0 again. Each bank serves one word at a time. A warp that reads a row of the tile wants a word of
# each bank: one pass. A warp that reads a column wants words 0, 32, 64, ...: all of bank 0, and 32
# passes, one after the other.
#
# The cure is a word behind each row that nobody uses. Rows are 33 words long, so a column is words
# 0, 33, 66, ..., of banks 0, 1, 2, ...

PADDED = TILE + 1


@cuda.jit
def transpose_padded(x, y):
    """A tile whose rows are a word longer."""
    tile = cuda.shared.array((TILE, PADDED), float32)
    across, down = cuda.threadIdx.x, cuda.threadIdx.y
    j, i = cuda.blockIdx.x * TILE + across, cuda.blockIdx.y * TILE + down
    if i < x.shape[0] and j < x.shape[1]:
        tile[down, across] = x[i, j]
    cuda.syncthreads()
    j, i = cuda.blockIdx.x * TILE + down, cuda.blockIdx.y * TILE + across
    if i < x.shape[0] and j < x.shape[1]:
        y[j, i] = tile[across, down]


padded = run(transpose_padded)

# %%
# One number in the source, and the queue at the bank is gone. In the picture, the upper row
# shows which banks the worst request of each kernel wants, the lower row which sectors.

compare("Transpose", {"naive": naive, "tile": tile, "padded": padded})

# %%
# On a GPU, if there is one
# -------------------------
#
# ``seconds_on_gpu`` launches some times and returns the median. The matrix is large now, so that
# it comes from memory and not from a cache.

from llm_numba import runtime
from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    print("Not timed:", problem)
else:
    large = runtime.to_device(np.random.default_rng(0).random((4096, 4096), np.float32), "cuda")
    for kernel in (transpose_naive, transpose_tile, transpose_padded):
        turned = runtime.zeros(large.shape, np.float32, "cuda")
        seconds = seconds_on_gpu(runtime.launch, kernel, (128, 128), (32, 32), (large, turned))
        assert np.array_equal(runtime.to_host(turned), runtime.to_host(large).T)
        print(f"{kernel.__name__:18s} {1e6 * seconds:6.0f} us, "
              f"{2 * large.nbytes / seconds / 1e12:5.2f} TB/s read and written")  # fmt: skip

# %%
# Where is most of the time won, at the sectors or at the banks? A queue at a bank costs nothing if
# memory is what everybody waits for. The :doc:`ladder's page </ladders/transpose>` has the times of
# an H100, and the steps that come after this one.

# %%
# One thing to try
# ----------------
#
# How much padding is enough? Make the rows 32 + p words long for p from 0 to 8, and plot the ways
# (``report.line(number).max_bank_ways``) over p. Which p are as good as 1, which are as bad as 0,
# and what have they in common? Then say, without running it, which p are good for ``float64``.
