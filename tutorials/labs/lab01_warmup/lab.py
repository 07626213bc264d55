"""Lab 1: a first kernel, its launch, a stride, two axes."""

import numpy as np
from grader import Lab, close

lab = Lab(
    title="Warm-up",
    goal="Write a kernel, launch it, and give its threads the elements that suit memory.",
)

ALPHA = np.float32(1.5)
# A product and a sum are two roundings of float32, or one if they are fused.
UNITS = 2 * 2.0**-24
# Lengths that fill no block, no warp, or nothing but one thread.
LENGTHS = (1, 31, 256, 1000)


def vectors(rng, N):
    """Two inputs and an output that nobody has written yet."""
    x, y = rng.normal(size=(2, N)).astype(np.float32)
    return x, y, np.full(N, np.nan, np.float32)


def check_sum(x, y, out, what):
    """Compare with float64."""
    product = float(ALPHA) * x.astype(np.float64)
    bound = UNITS * (np.abs(product) + np.abs(y))
    close(out, product + y, bound, what)


first = lab.step("One thread an element")


@first.check("computes alpha * x + y for any length", points=2)
def _(student, rng):
    for N in LENGTHS:
        x, y, out = vectors(rng, N)
        student.launch("saxpy", -(-N // 256), 256, (ALPHA, x, y, out))
        check_sum(x, y, out, f"out, for {N} elements")


@first.check("reads and writes each element once")
def _(student, rng):
    x, y, out = vectors(rng, 1000)
    ran = student.launch("saxpy", 4, 256, (ALPHA, x, y, out))
    for name in ("x", "y"):
        ran.arrays[name].exactly("loads", 1000, "Each thread needs one element of x and one of y.")
    ran.arrays["out"].exactly("stores", 1000, "Each thread writes one element of out.")


launcher = lab.step("Launch it")


@launcher.check("reaches every element", points=2)
def _(student, rng):
    for N in (*LENGTHS, 257):
        x, y, out = vectors(rng, N)
        student.run("launch_saxpy", ALPHA, x, y, out)
        check_sum(x, y, out, f"out, for {N} elements")


@launcher.check("uses one launch and no block too many")
def _(student, rng):
    for N in (256, 257, 1024):
        ran = student.run("launch_saxpy", ALPHA, *vectors(rng, N))
        ran.exactly("launches", 1, "One launch has as many blocks as you like.")
        ran.exactly(
            "threads", -(-N // 256) * 256, f"{N} elements need {-(-N // 256)} x 256 threads."
        )


stride = lab.step("A stride for any grid")


@stride.check("is right for any length and any grid", points=2)
def _(student, rng):
    for N, blocks in ((1, 1), (1000, 1), (1000, 3), (1000, 9)):
        x, y, out = vectors(rng, N)
        student.launch("saxpy_stride", blocks, 64, (ALPHA, x, y, out))
        check_sum(x, y, out, f"out, for {N} elements and {blocks} blocks of 64")


@stride.check("lets neighbouring threads touch neighbouring elements", points=2)
def _(student, rng):
    N = 4096
    ran = student.launch("saxpy_stride", 3, 64, (ALPHA, *vectors(rng, N)))
    ran.at_most(
        "global_sectors",
        3 * N * 4 // 32,
        "32 lanes of 4 bytes fill 4 sectors, if their elements lie side by side. "
        "And only one thread of the whole grid takes an element.",
    )


axes = lab.step("Two axes")


@axes.check("adds the bias to every row, whatever the shape", points=2)
def _(student, rng):
    for M, N in ((1, 1), (5, 40), (33, 20), (16, 64)):
        x = rng.normal(size=(M, N)).astype(np.float32)
        bias = rng.normal(size=N).astype(np.float32)
        out = np.full((M, N), np.nan, np.float32)
        grid = (-(-N // 32), -(-M // 8))
        student.launch("add_bias", grid, (32, 8), (x, bias, out))
        right = x.astype(np.float64) + bias
        close(out, right, 2.0**-24 * np.abs(right), f"out, for a matrix [{M}, {N}]")


@axes.check("lays the lanes of a warp along the columns", points=2)
def _(student, rng):
    M, N = 32, 64
    x, out = rng.normal(size=(2, M, N)).astype(np.float32)
    bias = rng.normal(size=N).astype(np.float32)
    ran = student.launch("add_bias", (N // 32, M // 8), (32, 8), (x, bias, out))
    ran.at_most(
        "global_sectors",
        3 * M * N * 4 // 32,
        "Row-major: columns lie side by side, rows lie N elements apart. `cuda.grid(2)` returns x "
        "first, and it is along x that lanes are neighbours.",
    )
