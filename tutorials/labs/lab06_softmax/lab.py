"""Lab 6: what is asked, and how it is judged."""

import math

import numpy as np
from grader import Lab, close, gamma, same

lab = Lab(
    title="Online softmax",
    goal="Find maximum and sum in one pass, and put parts of a row together in any order.",
)

# Rows, and numbers in a row.
NARROW = ((8, 64), (5, 77), (1, 1), (3, 31))
LONG = ((2, 512), (3, 633), (1, 1000), (2, 5), (1, 300))
LARGE = (4096, 4096)  # on a GPU
AT_MOST = 1.4  # of our time, on a GPU: see docs/results/labs_*.json
# Roundings that come with each number that is merged: two powers and what is done with them.
MERGE = 16


def powers(x):
    """Return each number's power in float64, relative to the largest of its row, and their bound.

    In float32 the argument of a power is rounded. It is as far below 0 as the number is below the
    largest, so a row that reaches far down is known less well. Powers below the smallest normal
    number may be flushed to zero.
    """
    x = x.astype(np.float64)
    below = np.full(x.shape, np.inf)
    np.subtract(x.max(axis=1, keepdims=True), x, out=below, where=np.isfinite(x))
    reach = np.where(np.isfinite(below), below, 0).max(axis=1, keepdims=True)
    return np.exp(-below), gamma(MERGE * x.shape[1]) + gamma(4) * reach


def softmax(x):
    """Return the softmax of rows in float64, and by how much float32 may miss it."""
    power, relative = powers(x)
    total = power.sum(axis=1, keepdims=True)
    right = power / np.where(total > 0, total, 1)
    return right, 2 * relative * right + 2.0**-126


def rows(rng, shape, size=1.0):
    """Return random rows."""
    return (size * rng.normal(size=shape)).astype(np.float32)


def masked(rng, shape):
    """Return random rows with masked numbers: row 0 is all masked, of the others the first half."""
    x = rows(rng, shape, 3.0)
    x[rng.random(shape) < 1 / 3] = -np.inf
    x[0] = -np.inf
    x[1:, : shape[1] // 2] = -np.inf
    return x


def warp_rows(student, x, what):
    """Run `softmax_stable`."""
    y = np.full(x.shape, np.nan, np.float32)
    ran = student.launch("softmax_stable", math.ceil(len(x) / 4), (32, 4), (x, y))
    close(y, *softmax(x), f"y, for {what}")
    return ran


def block_rows(student, x, what):
    """Run `softmax_online`."""
    y = np.full(x.shape, np.nan, np.float32)
    ran = student.launch("softmax_online", len(x), 128, (x, y))
    close(y, *softmax(x), f"y, for {what}")
    return ran


def split_rows(student, x, what):
    """Run `softmax_parts`, hold its results to what is right, and run `softmax_join` on them."""
    M, N = x.shape
    grid = math.ceil(N / 256), M
    tops, totals = np.full((2, M, grid[0]), np.nan, np.float32)
    y = np.full(x.shape, np.nan, np.float32)
    parts = student.launch("softmax_parts", grid, 128, (x, tops, totals))
    for piece in range(grid[0]):
        part = x[:, 256 * piece : 256 * (piece + 1)]
        power, relative = powers(part)
        total = power.sum(axis=1)
        same(tops[:, piece], part.max(axis=1), f"tops[:, {piece}], for {what}")
        close(totals[:, piece], total, relative[:, 0] * total, f"totals[:, {piece}], for {what}")
    join = student.launch("softmax_join", grid, 128, (x, tops, totals, y))
    close(y, *softmax(x), f"y, for {what}")
    return parts, join


def check_all(student, rng, run, shapes):
    """Run on rows of many lengths, of large numbers, of equal numbers, with masked numbers."""
    for shape in shapes:
        run(student, rows(rng, shape), f"{shape[0]} rows of {shape[1]}")
    shape = shapes[1]
    run(student, rows(rng, shape, 1000.0), "numbers in the thousands")
    run(student, np.full(shape, -300, np.float32), "numbers that are all -300")
    run(student, masked(rng, shape), "masked numbers")


def along_rows(ran, shape, reads, more=0):
    """Hold a launch to so many reads of x, one write of y, and five sectors for 32 neighbours.

    `more` is what other arrays may take, in sectors.
    """
    M, N = shape
    ran.arrays["x"].at_most("loads", reads * M * N, f"x is read {reads} times here, and no more.")
    ran.arrays["y"].exactly("stores", M * N, "y is written once.")
    ran.arrays["y"].exactly("loads", 0, "y is not read.")
    requests = M * math.ceil(N / 32) * (reads + 1)
    ran.at_most("global_sectors", 5 * requests + more, "32 neighbours are 4 sectors, or 5.")


stable = lab.step("Stable, in three passes")


@stable.check("is right for numbers of any size", points=2)
def _(student, rng):
    check_all(student, rng, warp_rows, NARROW)


@stable.check("reads rows along rows, three times at most", points=1)
def _(student, rng):
    for shape in NARROW:
        along_rows(warp_rows(student, rows(rng, shape), "random rows"), shape, 3)


rule = lab.step("The rule of merging")


def merge_all(student, tops, totals):
    """Run `merge` on pairs of parts, and hold it to their sum in float64."""
    (top_a, top_b), (total_a, total_b) = tops, totals
    top, total = np.full((2, len(top_a)), np.nan, np.float32)
    arguments = (top_a, total_a, top_b, total_b, top, total)
    student.launch("merge_pairs", math.ceil(len(top_a) / 64), 64, arguments)
    same(top, tops.max(axis=0), "top")
    base = np.where(np.isfinite(top), top, 0).astype(np.float64)
    below = np.where(np.isfinite(tops), base - tops, np.inf)
    shares = totals * np.exp(-below)
    reach = np.where(np.isfinite(below), below, 0)
    bound = (shares * (gamma(MERGE) + gamma(4) * reach)).sum(axis=0)
    close(total, shares.sum(axis=0), bound + 2.0**-126, "total")


@rule.check("merges parts", points=2)
def _(student, rng):
    tops = rng.normal(0, 5, size=(2, 100)).astype(np.float32)
    totals = rng.uniform(1, 50, size=(2, 100)).astype(np.float32)
    merge_all(student, tops, totals)


@rule.check("merges parts far apart, and parts of nothing", points=2)
def _(student, rng):
    tops = rng.normal(0, 500, size=(2, 100)).astype(np.float32)
    totals = rng.uniform(1, 50, size=(2, 100)).astype(np.float32)
    for part, begin, end in ((0, 0, 20), (1, 10, 30)):
        tops[part, begin:end], totals[part, begin:end] = -np.inf, 0
    merge_all(student, tops, totals)


online = lab.step("Online: two passes")


@online.check("is right for numbers of any size", points=3)
def _(student, rng):
    check_all(student, rng, block_rows, LONG)


@online.check("reads twice, writes once, meets once", points=2)
def _(student, rng):
    for shape in LONG:
        ran = block_rows(student, rows(rng, shape), "random rows")
        along_rows(ran, shape, 2)
        ran.at_most(
            "barriers",
            shape[0],
            "One barrier a block: let every thread merge what the warps wrote.",
        )


@online.check(
    f"is online in at most {AT_MOST} times the time of our online step",
    points=3,
    gpu=True,
    at_most=AT_MOST,
)
def _(student, rng):
    x = rows(rng, LARGE)
    y = np.full_like(x, np.nan)
    raced = student.race(
        "softmax_online", x, y, grid=LARGE[0], block=128,
        against="llm_numba.kernels.softmax:softmax", against_args=(x,), step="online",
    )  # fmt: skip
    close(y, *softmax(x), f"y, for {LARGE[0]} rows of {LARGE[1]}")
    raced.at_most(AT_MOST, "Two reads and a write; what is merged for each number should be short.")


split = lab.step("A row for many blocks")


@split.check("is right for numbers of any size", points=2)
def _(student, rng):
    check_all(student, rng, split_rows, LONG)


@split.check("reads once in each launch", points=1)
def _(student, rng):
    for M, N in LONG:
        parts, join = split_rows(student, rows(rng, (M, N)), "random rows")
        for ran in (parts, join):
            ran.arrays["x"].exactly("loads", M * N, "Each element of x is read once.")
        pieces = math.ceil(N / 256)
        # Each of a block's four warps reads top and total of each piece of its row.
        along_rows(join, (M, N), 1, more=M * pieces * 4 * 2 * pieces)
