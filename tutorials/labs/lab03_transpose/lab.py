"""Lab 3: what is asked, and how it is judged."""

import math

import numpy as np
from grader import Lab, same

lab = Lab(
    title="Transpose without bank conflicts",
    goal="Touch global memory along rows and shared memory without queues.",
)

# Whole tiles, tiles with edges on both sides, less than a tile.
SHAPES = ((64, 96), (45, 70), (1, 33), (100, 7))
LARGE = 2048  # on a GPU
AT_MOST = 1.1  # of our time, on a GPU: see docs/results/labs_*.json


def turn(student, kernel, rng, shape, dtype=np.float32):
    """Run a kernel on a random matrix, and hold it to the transposed one, bit for bit."""
    x = rng.normal(size=shape).astype(dtype)
    y = np.full(shape[::-1], np.nan, dtype)
    grid = math.ceil(shape[1] / 32), math.ceil(shape[0] / 32)
    ran = student.launch(kernel, grid, (32, 8), (x, y))
    same(y, x.T, f"y, for x of {shape[0]} x {shape[1]}")
    return ran


def along_rows(ran, shape):
    """Hold a launch to one read, one write and five sectors for each row of each tile."""
    M, N = shape
    ran.arrays["x"].exactly("loads", M * N, "Each element of x is read once.")
    ran.arrays["y"].exactly("stores", M * N, "Each element of y is written once.")
    requests = M * math.ceil(N / 32) + N * math.ceil(M / 32)
    ran.at_most("global_sectors", 5 * requests, "A row of a tile, in or out, is 4 sectors, or 5.")


def without_queues(ran):
    """Hold a launch to one wavefront for each request to shared memory."""
    ran.at_least("shared_requests", 1, "The tile goes by way of shared memory.")
    ran.at_most(
        "bank_ways",
        1,
        "Which words do the 32 lanes of that line want, and in which banks are those?",
    )


tile = lab.step("Turn a tile in shared memory")


@tile.check("turns matrices of any shape", points=2)
def _(student, rng):
    for shape in SHAPES:
        turn(student, "turn_tile", rng, shape)


@tile.check("touches global memory along rows", points=2)
def _(student, rng):
    for shape in SHAPES[:2]:
        along_rows(turn(student, "turn_tile", rng, shape), shape)


padded = lab.step("Lengthen the rows by a word")


@padded.check("has no bank conflicts", points=2)
def _(student, rng):
    for shape in SHAPES:
        ran = turn(student, "turn_padded", rng, shape)
        along_rows(ran, shape)
        without_queues(ran)


@padded.check("pads by 128 bytes", points=1)
def _(student, rng):
    ran = turn(student, "turn_padded", rng, (45, 70))
    ran.at_most("shared_bytes", 32 * 33 * 4, "Rows that are one word longer are enough.")


halves = lab.step("Elements of two bytes")


@halves.check("turns halves without bank conflicts", points=2)
def _(student, rng):
    for shape in SHAPES:
        ran = turn(student, "turn_halves", rng, shape, np.float16)
        along_rows(ran, shape)
        without_queues(ran)


@halves.check("pads by 128 bytes", points=1)
def _(student, rng):
    ran = turn(student, "turn_halves", rng, (45, 70), np.float16)
    ran.at_most("shared_bytes", 32 * 34 * 2, "Rows that are one word longer are enough.")


swizzled = lab.step("Swizzle in place of padding")


@swizzled.check("has no bank conflicts", points=2)
def _(student, rng):
    for shape in SHAPES:
        ran = turn(student, "turn_swizzled", rng, shape)
        along_rows(ran, shape)
        without_queues(ran)


@swizzled.check("pads by nothing", points=2)
def _(student, rng):
    ran = turn(student, "turn_swizzled", rng, (45, 70))
    ran.at_most(
        "shared_bytes",
        32 * 32 * 4,
        "The tile is exactly as large as its elements: permute, do not pad.",
    )


@swizzled.check(
    f"takes at most {AT_MOST} times as long as our swizzled step",
    points=3,
    gpu=True,
    at_most=AT_MOST,
)
def _(student, rng):
    x = rng.normal(size=(LARGE, LARGE)).astype(np.float32)
    y = np.full_like(x, np.nan)
    raced = student.race(
        "turn_swizzled", x, y, grid=(LARGE // 32, LARGE // 32), block=(32, 8),
        against="llm_numba.kernels.transpose:transpose", against_args=(x,), step="swizzled",
    )  # fmt: skip
    same(y, x.T, f"y, for x of {LARGE} x {LARGE}")
    raced.at_most(AT_MOST, "With whole sectors and no conflicts there is little left to wait for.")
