"""Lab 4: what is asked, and how it is judged."""

import math

import numpy as np
from grader import Lab, close, gamma

lab = Lab(
    title="Tiled matrix product",
    goal="Load a number once and use it 32 times; then read shared memory less, too.",
)

# M, N, K: whole tiles; edges on all sides; a single row, K one longer than a tile; K shorter.
SHAPES = ((32, 32, 32), (40, 37, 50), (1, 33, 33), (33, 5, 9))
EDGES = SHAPES[1:]
LARGE = (2048, 2048, 512)  # on a GPU
AT_MOST = 2.4  # of our time, on a GPU: see docs/results/labs_*.json
FULL, HALF = (32, 32), (32, 8)


def multiply(student, kernel, rng, shape, block=FULL):
    """Run a kernel on random matrices, and hold it to the product in float64."""
    M, N, K = shape
    a, w = (rng.normal(size=(rows, K)).astype(np.float32) for rows in (M, N))
    c = np.full((M, N), np.nan, np.float32)
    ran = student.launch(kernel, (math.ceil(N / 32), math.ceil(M / 32)), block, (a, w, c))
    compare(a, w, c)
    return ran


def compare(a, w, c):
    """Hold C to the product in float64."""
    a, w = a.astype(np.float64), w.astype(np.float64)
    # K products, added in any order, each rounded: Higham's bound.
    bound = gamma(a.shape[1]) * np.abs(a) @ np.abs(w).T
    close(c, a @ w.T, bound, f"c, for M, N, K = {len(a)}, {len(w)}, {a.shape[1]}")


def loads_once(ran, shape):
    """Hold a launch to one load of each number for each block that needs it, along rows."""
    M, N, K = shape
    across, down, deep = (math.ceil(length / 32) for length in (N, M, K))
    ran.arrays["a"].at_most("loads", M * K * across, "A block loads each number of A once.")
    ran.arrays["w"].at_most("loads", N * K * down, "A block loads each number of W once.")
    ran.arrays["c"].exactly("stores", M * N, "Each number of C is written once.")
    ran.arrays["c"].exactly("loads", 0, "A sum that is not complete belongs in a register.")
    requests = deep * (M * across + N * down) + M * across
    ran.at_most("global_sectors", 5 * requests, "A row of a tile is 4 sectors, or 5.")


def without_queues(ran):
    """Hold a launch to one wavefront for each request to shared memory."""
    ran.at_least("shared_requests", 1, "Tiles lie in shared memory.")
    ran.at_most(
        "bank_ways",
        1,
        "Which words do the 32 lanes of that line want, and in which banks are those?",
    )


plain = lab.step("One thread, one output")


@plain.check("multiplies matrices of any shape", points=2)
def _(student, rng):
    for shape in SHAPES:
        multiply(student, "product_plain", rng, shape)


@plain.check("adds up in a register", points=1)
def _(student, rng):
    for M, N, K in SHAPES[:2]:
        ran = multiply(student, "product_plain", rng, (M, N, K))
        ran.arrays["c"].exactly("stores", M * N, "Each number of C is written once.")
        ran.arrays["c"].exactly("loads", 0, "A sum that is not complete belongs in a register.")
        warps = M * math.ceil(N / 32)
        # Of 32 rows of W a number each, of A one number, and at the end a row of C.
        most = warps * (K * (32 + 1) + 5)
        ran.at_most("global_sectors", most, "The lanes of a warp own neighbours of one row of C.")
        ran.at_most(
            "global_requests",
            warps * (2 * K + 1),
            "A warp needs two loads for each k, and one store.",
        )


tiled = lab.step("Tiles in shared memory")


@tiled.check("multiplies by way of tiles", points=3)
def _(student, rng):
    for shape in SHAPES:
        ran = multiply(student, "product_tiled", rng, shape)
        ran.at_least("shared_requests", 1, "Tiles lie in shared memory.")


@tiled.check("loads each number once, along rows", points=2)
def _(student, rng):
    for shape in EDGES:
        loads_once(multiply(student, "product_tiled", rng, shape), shape)


@tiled.check("fills tiles with fewer threads, too", points=1)
def _(student, rng):
    for rows, K, first_row, first_k in ((64, 64, 32, 32), (40, 50, 32, 32), (5, 9, 0, 0)):
        source = rng.normal(size=(rows, K)).astype(np.float32)
        for threads in (8, 32):
            copy = np.full((32, 32), np.nan, np.float32)
            args = (source, np.int32(first_row), np.int32(first_k), copy)
            student.launch("fill_and_copy", 1, (32, threads), args)
            right = np.zeros((32, 32))
            piece = source[first_row : first_row + 32, first_k : first_k + 32]
            right[: piece.shape[0], : piece.shape[1]] = piece
            what = f"the tile of rows {first_row} to {first_row + 31} of {rows}, 32 x {threads}"
            close(copy, right, 0, f"{what} threads")


padded = lab.step("Without bank conflicts")


@padded.check("has no bank conflicts", points=2)
def _(student, rng):
    for shape in EDGES:
        ran = multiply(student, "product_padded", rng, shape)
        loads_once(ran, shape)
        without_queues(ran)


@padded.check("pads one tile, not both", points=1)
def _(student, rng):
    ran = multiply(student, "product_padded", rng, SHAPES[3])
    ran.at_most(
        "shared_bytes",
        4 * 32 * (32 + 33),
        "Only the tile that is read down a column needs longer rows.",
    )


columns = lab.step("Four outputs a thread")


@columns.check("multiplies matrices of any shape", points=2)
def _(student, rng):
    for shape in SHAPES:
        ran = multiply(student, "product_columns", rng, shape, HALF)
        loads_once(ran, shape)
        without_queues(ran)


@columns.check("reads shared memory five times for four outputs", points=2)
def _(student, rng):
    M, N, K = 33, 40, 50
    ran = multiply(student, "product_columns", rng, (M, N, K), HALF)
    tiles = math.ceil(M / 32) * math.ceil(N / 32) * math.ceil(K / 32)
    # Of a pair of tiles: 64 rows are stored, in two requests where an `if` parts numbers from
    # zeros; 8 warps read for 32 k.
    ran.at_most(
        "shared_requests",
        tiles * (2 * 64 + 8 * 32 * 5),
        "For each k: one number of W, kept in a variable, and four of A.",
    )


@columns.check(
    f"takes at most {AT_MOST} times as long as our padded step", points=3, gpu=True, at_most=AT_MOST
)
def _(student, rng):
    M, N, K = LARGE
    a, w = (rng.normal(size=(rows, K)).astype(np.float32) for rows in (M, N))
    c = np.full((M, N), np.nan, np.float32)
    raced = student.race(
        "product_columns", a, w, c, grid=(N // 32, M // 32), block=HALF,
        against="llm_numba.kernels.gemm:gemm", against_args=(a, w), step="padded",
    )  # fmt: skip
    compare(a, w, c)
    raced.at_most(AT_MOST, "Fill the tiles along rows, and keep the four sums in registers.")
