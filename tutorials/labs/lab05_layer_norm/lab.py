"""Lab 5: what is asked, and how it is judged."""

import math

import numpy as np
from grader import Lab, close, gamma

lab = Lab(
    title="Fused LayerNorm",
    goal="Read a row once, keep it in registers, write the result once.",
)

EPS = np.float32(1e-5)
# Rows, and numbers in a row: a full block, fewer rows than warps, one number, no multiple of 32.
NARROW = ((8, 64), (5, 77), (1, 1), (3, 256), (6, 31))
WIDE = ((2, 512), (3, 333), (1, 1000), (2, 5), (1, 1024))
LARGE = (8192, 1024)  # on a GPU
AT_MOST = 1.25  # of our time, on a GPU: see docs/results/labs_*.json


def rows(rng, shape, centre=0.0):
    """Return random rows of deviation 1 around a mean."""
    return (centre + rng.normal(size=shape)).astype(np.float32)


def distance_of_means(x, share):
    """Return how far a mean in float32 may lie from the true one.

    A thread adds up to `share` numbers, and a few more additions put the threads together.
    """
    return gamma(share + 16) * np.abs(x).max(axis=1, keepdims=True)


def normed(x, weight, bias, share):
    """Return the norm in float64, and by how much float32 may miss it.

    With a mean that is wrong by d, the variance is wrong by 2 d sigma and d squared at most, and
    by its own roundings; an inverse root takes half of that.
    """
    x, weight, bias = (each.astype(np.float64) for each in (x, weight, bias))
    d = distance_of_means(x, share)
    variance = x.var(axis=1, keepdims=True) + EPS
    deviation = np.sqrt(variance)
    relative = gamma(share + 24) + 2 * d / deviation + d * d / variance
    scaled = (x - x.mean(axis=1, keepdims=True)) / deviation * weight
    bound = np.abs(scaled) * relative + np.abs(weight) * d / deviation
    return scaled + bias, bound + gamma(4) * (np.abs(scaled) + np.abs(bias))


def grid_of(shape):
    """Return the blocks of steps 1 to 3, with four rows each."""
    return math.ceil(shape[0] / 4)


def parameters(rng, N):
    """Return a weight and a bias."""
    return rng.normal(1, 0.5, size=(2, N)).astype(np.float32)


def norm(student, kernel, rng, shape, centre=0.0):
    """Run `layer_norm` or `layer_norm_wide`, and hold it to the norm in float64."""
    x, (weight, bias) = rows(rng, shape, centre), parameters(rng, shape[1])
    y = np.full(shape, np.nan, np.float32)
    grid, block = (grid_of(shape), (32, 4)) if kernel == "layer_norm" else (shape[0], 128)
    ran = student.launch(kernel, grid, block, (x, weight, bias, EPS, y))
    right, bound = normed(x, weight, bias, math.ceil(shape[1] / 32))
    close(y, right, bound, f"y, for {shape[0]} rows of {shape[1]}, mean {centre:g}")
    return ran


def moves_once(ran, shape, read, written):
    """Hold a launch to one load or store of each number of each matrix, along rows."""
    M, N = shape
    for name in read:
        ran.arrays[name].exactly("loads", M * N, f"Each element of {name} is read once.")
    for name in written:
        ran.arrays[name].exactly("stores", M * N, f"Each element of {name} is written once.")
        ran.arrays[name].exactly(
            "loads", 0, f"What is written to {name} is still in registers: {name} is not read."
        )
    # Weight and bias are read for each row, too.
    requests = M * math.ceil(N / 32) * (len(read) + len(written) + 2)
    ran.at_most("global_sectors", 5 * requests, "32 neighbours are 4 sectors, or 5.")


statistics = lab.step("Mean and variance, a warp a row")


def find_statistics(student, rng, shape, centre):
    """Run `statistics`, and hold it to mean and variance in float64."""
    x = rows(rng, shape, centre)
    mean, variance = np.full((2, shape[0]), np.nan, np.float32)
    ran = student.launch("statistics", grid_of(shape), (32, 4), (x, mean, variance))
    exact, share = x.astype(np.float64), math.ceil(shape[1] / 32)
    what = f"for {shape[0]} rows of {shape[1]}, mean {centre:g}"
    d = distance_of_means(exact, share)[:, 0]
    close(mean, exact.mean(axis=1), d, f"mean, {what}")
    right = exact.var(axis=1)
    bound = right * gamma(share + 24) + 2 * d * np.sqrt(right) + d * d
    close(variance, right, bound, f"variance, {what}")
    return ran


@statistics.check("finds mean and variance", points=2)
def _(student, rng):
    for shape in NARROW:
        find_statistics(student, rng, shape, 1.0)


@statistics.check("is exact where the mean is large", points=1)
def _(student, rng):
    for shape in NARROW[:2]:
        find_statistics(student, rng, shape, 1000.0)


@statistics.check("reads rows along rows, twice at most", points=1)
def _(student, rng):
    for M, N in NARROW:
        ran = find_statistics(student, rng, (M, N), 0.0)
        ran.arrays["x"].at_most("loads", 2 * M * N, "A row is read at most twice.")
        for name in ("mean", "variance"):
            ran.arrays[name].exactly("stores", M, "Each result is written once.")
        requests = 2 * M * math.ceil(N / 32) + 2 * M
        ran.at_most("global_sectors", 5 * requests, "32 neighbours are 4 sectors, or 5.")


registers = lab.step("The row in registers")


@registers.check("normalises", points=2)
def _(student, rng):
    for shape in NARROW:
        norm(student, "layer_norm", rng, shape)
    norm(student, "layer_norm", rng, (5, 77), 1000.0)


@registers.check("reads once and writes once", points=2)
def _(student, rng):
    for shape in NARROW:
        ran = norm(student, "layer_norm", rng, shape)
        moves_once(ran, shape, ("x",), ("y",))
        ran.exactly("shared_requests", 0, "Registers and shuffles are enough.")


fused = lab.step("The residual, too")


def add_norm(student, rng, shape):
    """Run `add_layer_norm`, and hold it to the sum and its norm in float64."""
    x, residual = rows(rng, shape), rows(rng, shape, 3.0)
    weight, bias = parameters(rng, shape[1])
    total, y = np.full((2, *shape), np.nan, np.float32)
    args = (x, residual, weight, bias, EPS, total, y)
    ran = student.launch("add_layer_norm", grid_of(shape), (32, 4), args)
    what = f"for {shape[0]} rows of {shape[1]}"
    close(total, x + residual, 0, f"total, {what}")
    right, bound = normed(x + residual, weight, bias, math.ceil(shape[1] / 32))
    close(y, right, bound, f"y, {what}")
    return ran


@fused.check("adds and normalises", points=2)
def _(student, rng):
    for shape in NARROW:
        add_norm(student, rng, shape)


@fused.check("reads once and writes once", points=2)
def _(student, rng):
    for shape in NARROW:
        ran = add_norm(student, rng, shape)
        moves_once(ran, shape, ("x", "residual"), ("total", "y"))
        ran.exactly("shared_requests", 0, "Registers and shuffles are enough.")


wide = lab.step("Long rows: a block, and one meeting")


@wide.check("merges two parts of a row", points=1)
def _(student, rng):
    counts = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (5, 1), (1, 40), (300, 200)], np.float32).T
    means = rng.normal(2, 1, size=counts.shape) * (counts > 0)
    squares = rng.uniform(0, 9, size=counts.shape) * (counts > 1)
    a, b = np.stack((counts, means, squares), axis=1).astype(np.float32)
    merged = np.full(a.shape, np.nan, np.float32)
    student.launch("merge_pairs", 1, 32, (a, b, merged))
    (n_a, mean_a, squares_a), (n_b, mean_b, squares_b) = a.astype(np.float64), b.astype(np.float64)
    count = n_a + n_b
    apart = (mean_b - mean_a) ** 2 * n_a * n_b / np.maximum(count, 1)
    right = squares_a + squares_b + apart
    pairs = f"merging parts of {n_a.astype(int)} with parts of {n_b.astype(int)} numbers"
    close(merged[0], count, 0, f"count, {pairs}")
    mean = (n_a * mean_a + n_b * mean_b) / np.maximum(count, 1)
    close(merged[1], mean, gamma(4) * (np.abs(mean_a) + np.abs(mean_b)), f"mean, {pairs}")
    close(merged[2], right, gamma(8) * right, f"squares, {pairs}")


@wide.check("normalises long rows", points=2)
def _(student, rng):
    for shape in WIDE:
        norm(student, "layer_norm_wide", rng, shape)
    norm(student, "layer_norm_wide", rng, (2, 333), 1000.0)


@wide.check("reads once, writes once, meets once", points=2)
def _(student, rng):
    for shape in WIDE:
        ran = norm(student, "layer_norm_wide", rng, shape)
        moves_once(ran, shape, ("x",), ("y",))
        ran.at_most("bank_ways", 1, "What the warps know is a few words.")
        ran.at_most(
            "barriers",
            shape[0],
            "One barrier a block: let every thread merge what the warps wrote.",
        )


@wide.check(
    f"takes at most {AT_MOST} times as long as our warp step", points=3, gpu=True, at_most=AT_MOST
)
def _(student, rng):
    x, (weight, bias) = rows(rng, LARGE), parameters(rng, LARGE[1])
    y = np.full_like(x, np.nan)
    raced = student.race(
        "layer_norm_wide", x, weight, bias, EPS, y, grid=LARGE[0], block=128,
        against="llm_numba.kernels.layernorm:layer_norm",
        against_args=(x, weight, bias, float(EPS)), step="warp",
    )  # fmt: skip
    right, bound = normed(x, weight, bias, math.ceil(LARGE[1] / 32))
    close(y, right, bound, f"y, for {LARGE[0]} rows of {LARGE[1]}")
    raced.at_most(AT_MOST, "Ours reads each row three times, a warp a row.")
