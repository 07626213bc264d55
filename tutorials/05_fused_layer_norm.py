"""
LayerNorm in one kernel
=======================

LayerNorm takes a row's mean, its variance, and then scales. Written as formulas stand, that is
three kernels, and each reads the row again. We count what that costs, fuse them, and meet a sum
that goes wrong in a way no test with small numbers shows.
"""

# %%
# Three kernels
# -------------
#
# For a row x of E numbers, with a weight w and a bias b for each place:
#
# .. math::
#
#    y_j = \frac{x_j - \mu}{\sqrt{\sigma^2 + \varepsilon}}\, w_j + b_j, \qquad
#    \mu = \frac1E \sum_j x_j, \qquad \sigma^2 = \frac1E \sum_j (x_j - \mu)^2
#
# One kernel for the mean, one for the variance, one for the rest. A warp takes a row, and adds up
# with shuffles, as in :doc:`the tutorial on warps <02_what_a_warp_does>`.

import math

import matplotlib.pyplot as plt
import numpy as np
from numba import cuda, float32

from llm_numba.simulator import simulate

ROWS, E = 32, 256
EPSILON = 1e-5
EVERYBODY = 0xFFFFFFFF


@cuda.jit(device=True)
def sum_of_warp(value):
    """Return the sum over the 32 lanes, to all of them."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(EVERYBODY, value, distance)
    return value


@cuda.jit
def means(x, mean):
    """The mean of each row."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    total = float32(0)
    for j in range(lane, x.shape[1], 32):
        total += x[row, j]
    total = sum_of_warp(total)
    if lane == 0:
        mean[row] = total / float32(x.shape[1])


@cuda.jit
def variances(x, mean, variance):
    """The variance of each row."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    total = float32(0)
    for j in range(lane, x.shape[1], 32):
        from_mean = x[row, j] - mean[row]
        total += from_mean * from_mean
    total = sum_of_warp(total)
    if lane == 0:
        variance[row] = total / float32(x.shape[1])


@cuda.jit
def scaled(x, mean, variance, weight, bias, y):
    """What mean and variance are for."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    scale = float32(1) / math.sqrt(variance[row] + float32(EPSILON))
    for j in range(lane, x.shape[1], 32):
        y[row, j] = (x[row, j] - mean[row]) * scale * weight[j] + bias[j]


def layer_norm_exact(x, weight, bias):
    """LayerNorm in float64."""
    x = x.astype(np.float64)
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPSILON) * weight + bias


rng = np.random.default_rng(0)
x = rng.normal(size=(ROWS, E)).astype(np.float32)
weight, bias = rng.normal(size=(2, E)).astype(np.float32)


def three_kernels(x):
    """Launch all three; return the result and the sectors of each."""
    mean, variance = np.zeros((2, len(x)), np.float32)
    y = np.full_like(x, np.nan)
    reports = [
        simulate(means, ROWS, 32, (x, mean)),
        simulate(variances, ROWS, 32, (x, mean, variance)),
        simulate(scaled, ROWS, 32, (x, mean, variance, weight, bias, y)),
    ]
    return y, [report.global_sectors for report in reports]


y, three = three_kernels(x)
print("largest error", f"{np.abs(y - layer_norm_exact(x, weight, bias)).max():.0e}")
print("sectors of the three kernels", three)

# %%
# One kernel
# ----------
#
# A row of 256 is eight numbers a lane. A lane can keep eight numbers in registers from the first
# line to the last, and then all three steps work on what is already there.

KEPT = E // 32


@cuda.jit
def layer_norm(x, weight, bias, y):
    """A warp a row, each number read once."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    kept = cuda.local.array(KEPT, float32)
    total = float32(0)
    for k in range(KEPT):
        kept[k] = x[row, lane + 32 * k]
        total += kept[k]
    mean = sum_of_warp(total) / float32(E)
    total = float32(0)
    for k in range(KEPT):
        kept[k] -= mean
        total += kept[k] * kept[k]
    variance = sum_of_warp(total) / float32(E)
    scale = float32(1) / math.sqrt(variance + float32(EPSILON))
    for k in range(KEPT):
        j = lane + 32 * k
        y[row, j] = kept[k] * scale * weight[j] + bias[j]


y = np.full_like(x, np.nan)
fused = simulate(layer_norm, ROWS, 32, (x, weight, bias, y)).global_sectors
print("largest error", f"{np.abs(y - layer_norm_exact(x, weight, bias)).max():.0e}")
print(f"sectors {sum(three)} -> {fused}")

# %%
# Not a third, as one might think. Of the three kernels only the last writes the rows, and weight
# and bias are read for each row in both versions. (On a GPU they come from a cache after the first
# row. A sector is a sector to the simulator, wherever it is found.)
#
# Two numbers from one walk?
# --------------------------
#
# The variance can be had in the same walk as the mean, because the mean of the squares minus the
# square of the mean is the variance. It is on every formula sheet, and it saves the second walk.
# Try it on rows whose numbers are not around 0:


@cuda.jit
def layer_norm_of_squares(x, weight, bias, y):
    """The same, with the formula sheet's variance."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    total = float32(0)
    squares = float32(0)
    for j in range(lane, E, 32):
        total += x[row, j]
        squares += x[row, j] * x[row, j]
    mean = sum_of_warp(total) / float32(E)
    variance = sum_of_warp(squares) / float32(E) - mean * mean
    scale = float32(1) / math.sqrt(variance + float32(EPSILON))
    for j in range(lane, E, 32):
        y[row, j] = (x[row, j] - mean) * scale * weight[j] + bias[j]


far = [0, 1, 10, 100, 1000, 3000]
errors = {"two walks in registers": [], "mean of squares": []}
for offset in far:
    moved = x + np.float32(offset)
    right = layer_norm_exact(moved, weight, bias)
    for kernel, found in zip((layer_norm, layer_norm_of_squares), errors.values(), strict=True):
        y = np.full_like(x, np.nan)
        simulate(kernel, ROWS, 32, (moved, weight, bias, y), explain=False)
        found.append(np.abs(y - right).max())
    print(f"numbers around {offset:5d}: " + ", ".join(f"{e[-1]:.0e}" for e in errors.values()))

# %%
# Around 1000 the squares are around a million, and float32 keeps seven digits: the variance, which
# is 1, is what is left of the difference of two numbers that agree in nearly all of them. Around
# 3000 it can come out negative, and its root is no number.
#
# Holding the row in registers makes the honest formula free: the second walk reads no memory. The
# :doc:`ladder of the norms </ladders/norms>` shows what is done when a row does not fit.

figure, axes = plt.subplots(figsize=(6.4, 3.2))
for (name, found), marker in zip(errors.items(), "os", strict=True):
    axes.plot(range(len(far)), found, marker + "-", label=name)
axes.set_xticks(range(len(far)), far)
axes.set(yscale="log", xlabel="numbers around", ylabel="largest error", title="LayerNorm, float32")
axes.legend()
figure.set_label(
    "Largest error over the offset of the numbers: the one-walk variance loses about two digits for"
    " every tenfold offset, while two walks over registers lose one. At 3000 the one-walk curve has"
    " no point: its variance was negative."
)
plt.show()

# %%
# On a GPU, if there is one
# -------------------------
#
# Three launches against one, on rows enough to fill a GPU. ``seconds_on_gpu`` launches some times
# and returns the median.

from llm_numba import runtime
from llm_numba.bench.gpu_timing import seconds_on_gpu

if problem := runtime.gpu_problem():
    print("Not timed:", problem)
else:
    many = rng.normal(size=(1 << 16, E)).astype(np.float32)
    rows, w, b = (runtime.to_device(array, "cuda") for array in (many, weight, bias))
    mean, variance = (runtime.zeros(len(rows), np.float32, "cuda") for _ in range(2))
    y = runtime.zeros(rows.shape, np.float32, "cuda")

    def apart():
        """Launch the three kernels."""
        runtime.launch(means, len(rows), 32, (rows, mean))
        runtime.launch(variances, len(rows), 32, (rows, mean, variance))
        runtime.launch(scaled, len(rows), 32, (rows, mean, variance, w, b, y))

    def together():
        """Launch the one kernel."""
        runtime.launch(layer_norm, len(rows), 32, (rows, w, b, y))

    for way in (apart, together):
        y.fill(np.nan)
        seconds = seconds_on_gpu(way)
        assert np.allclose(runtime.to_host(y), layer_norm_exact(many, weight, bias), atol=1e-4)
        print(f"{way.__name__:10s} {1e6 * seconds:6.0f} us, "
              f"{2 * many.nbytes / seconds / 1e12:5.2f} TB/s of rows, in and out")  # fmt: skip

# %%
# One thing to try
# ----------------
#
# There is a way to have both, one walk and the right answer: Welford's update, which moves a mean
# and a sum of squared differences with each number. Write ``layer_norm_welford``. Each lane ends
# with a count, a mean and a sum; how do two lanes merge theirs? (Chan, Golub and LeVeque, 1979.)
