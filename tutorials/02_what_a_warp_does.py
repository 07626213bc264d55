"""
What a warp does
================

Thirty-two threads of a GPU walk in step. They can hand each other numbers without going through
memory, and softmax, which needs a maximum and a sum of a whole row, is where that pays. We write it
three times and let the simulator count.
"""

# %%
# Softmax needs two numbers of the whole row
# ------------------------------------------
#
# Softmax turns a row of scores into weights that add up to 1:
#
# .. math:: y_j = \frac{e^{x_j - m}}{\sum_k e^{x_k - m}}, \qquad m = \max_k x_k
#
# Each weight is easy once the maximum and the sum are known, and both need every number of the
# row. Here is the row as one thread would do it: a thread a row, three walks along it.

import math

import numpy as np
from numba import cuda, float32

from llm_numba.microscope import compare
from llm_numba.simulator import simulate

ROWS, COLUMNS = 64, 96


@cuda.jit
def softmax_by_threads(x, y):
    """A thread a row."""
    row = cuda.grid(1)
    if row < x.shape[0]:
        largest = float32(-math.inf)
        for j in range(x.shape[1]):
            largest = max(largest, x[row, j])
        total = float32(0)
        for j in range(x.shape[1]):
            total += math.exp(x[row, j] - largest)
        for j in range(x.shape[1]):
            y[row, j] = math.exp(x[row, j] - largest) / total


rng = np.random.default_rng(0)
x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
exact = np.exp(x - x.max(1, keepdims=True), dtype=np.float64)
exact /= exact.sum(1, keepdims=True)


def run(kernel, grid, block):
    """Launch, check against float64, and return what it cost."""
    y = np.full_like(x, np.nan)
    report = simulate(kernel, grid, block, (x, y))
    print(f"{kernel.__name__}: largest error {np.abs(y - exact).max():.0e}")
    return report


by_threads = run(softmax_by_threads, ROWS // 32, 32)

# %%
# It is right. But look at what a warp asks for: its 32 threads stand in 32 different rows, so one
# request wants 32 numbers that lie 96 apart, and each comes in a sector of its own.
#
# A warp a row
# ------------
#
# Let the 32 lanes share a row instead: lane 0 takes columns 0, 32, 64, lane 1 takes 1, 33, 65, and
# so on. Neighbours read neighbours. Each lane then has a maximum of its own three numbers, and the
# warp must find the largest of 32. Lanes have no common variable. They have the *shuffle*: in one
# instruction each lane reads a register of another.
#
# ``shfl_xor_sync(mask, value, 16)`` gives lane 0 the value of lane 16, lane 1 that of 17, and lane
# 16 that of 0. Now every pair knows its larger number. Again with 8, 4, 2 and 1: five steps, and
# **all** lanes know the largest of 32. No shared memory, no barrier, and nobody has to tell the
# others.

EVERYBODY = 0xFFFFFFFF


@cuda.jit(device=True)
def largest_of_warp(value):
    """Return the largest value of the 32 lanes, to all of them."""
    for distance in (16, 8, 4, 2, 1):
        value = max(value, cuda.shfl_xor_sync(EVERYBODY, value, distance))
    return value


@cuda.jit(device=True)
def sum_of_warp(value):
    """Return the sum over the 32 lanes, to all of them."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(EVERYBODY, value, distance)
    return value


@cuda.jit
def softmax_by_warps(x, y):
    """A warp a row: a block is one warp."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    largest = float32(-math.inf)
    for j in range(lane, x.shape[1], 32):
        largest = max(largest, x[row, j])
    largest = largest_of_warp(largest)
    total = float32(0)
    for j in range(lane, x.shape[1], 32):
        total += math.exp(x[row, j] - largest)
    total = sum_of_warp(total)
    for j in range(lane, x.shape[1], 32):
        y[row, j] = math.exp(x[row, j] - largest) / total


by_warps = run(softmax_by_warps, ROWS, 32)

# %%
# To see the shuffle at work, let a kernel write down what each lane knows after each step. One
# lane begins with a 1, the others with 0, and the maximum spreads: to 2 lanes, to 4, 8, 16, 32.


@cuda.jit
def watch(known):
    """Record the maximum as each lane knows it, after 0 to 5 steps."""
    lane = cuda.threadIdx.x
    value = float32(1 if lane == 11 else 0)
    known[0, lane] = value
    distance, step = 16, 1
    while distance > 0:
        value = max(value, cuda.shfl_xor_sync(EVERYBODY, value, distance))
        known[step, lane] = value
        distance //= 2
        step += 1


known = np.zeros((6, 32), np.float32)
simulate(watch, 1, 32, (known,))
for step, lanes in enumerate(known):
    print(f"after {step} steps  " + "".join(".#"[int(value)] for value in lanes))

# %%
# A row that is read once
# -----------------------
#
# The warp still reads the row three times. A row of 96 is three numbers a lane, and a lane has
# registers for hundreds. So load once, and keep. The loop has a constant length now, so that the
# compiler can unroll it and give each number a register.

KEPT = COLUMNS // 32


@cuda.jit
def softmax_kept(x, y):
    """A warp a row, and each number read once."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    kept = cuda.local.array(KEPT, float32)
    largest = float32(-math.inf)
    for k in range(KEPT):
        kept[k] = x[row, lane + 32 * k]
        largest = max(largest, kept[k])
    largest = largest_of_warp(largest)
    total = float32(0)
    for k in range(KEPT):
        kept[k] = math.exp(kept[k] - largest)
        total += kept[k]
    total = sum_of_warp(total)
    for k in range(KEPT):
        y[row, lane + 32 * k] = kept[k] / total


kept = run(softmax_kept, ROWS, 32)

# %%
# What it cost
# ------------
#
# The row must be read once and written once: that is the least that softmax can move.

least = 2 * x.nbytes // 32
for name, report in {"threads": by_threads, "warps": by_warps, "kept": kept}.items():
    print(f"{name:8s} {report.global_sectors:6d} sectors, {report.global_sectors / least:4.1f} x")

# %%
# From the first to the second, requests became tidy; from the second to the third, three reads
# became one. Softmax has next to nothing to compute, so on a GPU the time should follow
# these counts.
# The :doc:`ladder of the real kernel </ladders/softmax>` goes on from here: rows of any length,
# 16 bytes a load, halves.

compare("Softmax", {"by threads": by_threads, "by warps": by_warps, "kept": kept})

# %%
# On a GPU, if there is one
# -------------------------
#
# A count is not yet a time. Where there is a GPU, let it run the same kernels, on so many rows that
# all of it has work and no cache holds them. ``seconds_on_gpu`` launches some times and returns the
# median.

from llm_numba import runtime
from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    print("Not timed:", problem)
else:
    many = runtime.to_device(rng.random((1 << 17, COLUMNS), np.float32), "cuda")
    for kernel, blocks in (
        (softmax_by_threads, len(many) // 32),
        (softmax_by_warps, len(many)),
        (softmax_kept, len(many)),
    ):
        weights = runtime.zeros(many.shape, np.float32, "cuda")
        seconds = seconds_on_gpu(runtime.launch, kernel, blocks, 32, (many, weights))
        assert np.allclose(runtime.to_host(weights).sum(1), 1)
        print(f"{kernel.__name__:20s} {1e6 * seconds:6.0f} us, "
              f"{2 * many.nbytes / seconds / 1e12:5.2f} TB/s read and written")  # fmt: skip

# %%
# Hold the times to the counts. What they have not in common is the work of caches, of which the
# simulator knows nothing: a row that was read a moment ago may be found near.

# %%
# One thing to try
# ----------------
#
# ``shfl_down_sync`` hands values only downwards: lane 0 ends with the maximum, and the others do
# not. Write ``largest_of_warp`` with it, run it, and look at which rows come out wrong, and why.
# What does it take to mend that, and what does that cost compared with ``shfl_xor_sync``?
