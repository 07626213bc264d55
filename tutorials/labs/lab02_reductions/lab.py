"""Lab 2: sums by trees, by shuffles, by one atomic a block."""

import numpy as np
from grader import Lab, close, gamma

lab = Lab(
    title="Reductions and shuffles",
    goal="Add up rows: a tree in shared memory, then shuffles in registers, then atomics.",
)

THREADS, WARP = 128, 32
WARPS = THREADS // WARP
BLOCKS = 6
# Rows shorter than a warp, longer than a block, and of no round length.
SHAPES = ((1, 1), (3, 20), (2, 128), (5, 300))


def matrix(rng, M, N):
    """Return a matrix, and an output that nobody has written yet."""
    return rng.normal(size=(M, N)).astype(np.float32), np.full(M, np.nan, np.float32)


def check_sums(x, out, what):
    """Compare sums along the last axis with float64; any order of N additions is within gamma."""
    exact = x.astype(np.float64)
    close(out, exact.sum(-1), gamma(x.shape[-1]) * np.abs(exact).sum(-1), what)


def check_rows(student, rng, kernel, rows_a_block):
    """Launch a kernel on all shapes."""
    for M, N in SHAPES:
        x, out = matrix(rng, M, N)
        student.launch(kernel, -(-M // rows_a_block), THREADS, (x, out))
        check_sums(x, out, f"out, for {M} rows of {N}")


tree = lab.step("A tree in shared memory")


@tree.check("adds up rows of any length", points=2)
def _(student, rng):
    check_rows(student, rng, "row_sum_tree", 1)


@tree.check("is free of bank conflicts")
def _(student, rng):
    ran = student.launch("row_sum_tree", 3, THREADS, matrix(rng, 3, 300))
    ran.at_most("bank_ways", 1, "Let thread t of a fold add the word `half` further on to word t.")


@tree.check("lets whole warps fall idle, with one barrier a fold")
def _(student, rng):
    M = 3
    ran = student.launch("row_sum_tree", M, THREADS, matrix(rng, M, 256))
    ran.at_most(
        "divergent",
        6 * M,
        "Only the folds of 16, 8, 4, 2 and 1 threads need to split a warp, and the last store.",
    )
    folds = THREADS.bit_length() - 1
    ran.at_most("barriers", (folds + 1) * M, f"{THREADS} sums take {folds} folds.")
    ran.arrays["x"].exactly("loads", M * 256, "Each thread adds up its own elements first.")


shuffles = lab.step("A warp a row")


@shuffles.check("adds up rows of any length", points=2)
def _(student, rng):
    check_rows(student, rng, "row_sum_warp", WARPS)


@shuffles.check("needs neither shared memory nor a barrier")
def _(student, rng):
    ran = student.launch("row_sum_warp", 2, THREADS, matrix(rng, 8, 64))
    ran.exactly("shared_bytes", 0, "A shuffle hands a register from lane to lane.")
    ran.exactly("barriers", 0, "The lanes of a shuffle meet in it: nobody has to wait besides.")


@shuffles.check("reads each element once, side by side")
def _(student, rng):
    M, N = 8, 64
    ran = student.launch("row_sum_warp", 2, THREADS, matrix(rng, M, N))
    ran.arrays["x"].exactly("loads", M * N, "Lane l takes the elements l, l + 32, l + 64, ...")
    ran.at_most(
        "global_sectors",
        M * N * 4 // 32 + M,
        "32 lanes that read side by side take 4 sectors; each row's sum is one more.",
    )


block = lab.step("A block a row, with one barrier")


@block.check("adds up rows of any length", points=2)
def _(student, rng):
    check_rows(student, rng, "row_sum_block", 1)


@block.check("passes one barrier, and one word a warp through shared memory", points=2)
def _(student, rng):
    M = 3
    ran = student.launch("row_sum_block", M, THREADS, matrix(rng, M, 256))
    ran.exactly("barriers", M, "One, between the warps' stores and the first warp's load.")
    ran.at_most(
        "shared_requests",
        M * (WARPS + 1),
        "Each warp stores its sum once, and the first warp loads all of them at once.",
    )


whole = lab.step("A whole vector")


@whole.check("adds up a vector of any length with any grid", points=2)
def _(student, rng):
    for N, blocks in ((1, 1), (100, 3), (2000, 2)):
        x = rng.normal(size=N).astype(np.float32)
        out = np.zeros(1, np.float32)
        student.launch("vector_sum", blocks, THREADS, (x, out))
        check_sums(x[None], out, f"out, for {N} elements and {blocks} blocks")


@whole.check("adds once a block")
def _(student, rng):
    x = rng.normal(size=2000).astype(np.float32)
    ran = student.launch("vector_sum", 5, THREADS, (x, np.zeros(1, np.float32)))
    ran.arrays["x"].exactly("loads", 2000, "The stride is the size of the grid.")
    ran.arrays["out"].exactly(
        "atomics", 5, "Additions to one address stand in line. A block adds its own first."
    )


@whole.check("is launched so that the sum begins at zero")
def _(student, rng):
    x = rng.normal(size=1000).astype(np.float32)
    ran = student.run("launch_vector_sum", x)
    ran.exactly("launches", 1, "One launch does it.")
    ran.exactly("threads", BLOCKS * THREADS, f"The grid has {BLOCKS} blocks of {THREADS} threads.")
    check_sums(x[None], ran.returned, "the sum")
