"""Lab 7: what is asked, and how it is judged."""

import math
from typing import NamedTuple

import numpy as np
from grader import Lab, close, gamma

lab = Lab(
    title="Attention in one kernel",
    goal="Attend with no score in memory, then share each key among 32 rows.",
)


class Shape(NamedTuple):
    """S queries, the last of T positions; H query heads on G KV heads; D components."""

    S: int
    T: int
    H: int
    G: int
    D: int


# One token; a prompt; the end of a prompt; groups of three heads; keys in several tiles.
SHAPES = (
    Shape(1, 1, 1, 1, 8),
    Shape(9, 9, 2, 2, 32),
    Shape(6, 41, 2, 1, 12),
    Shape(13, 40, 3, 1, 8),
    Shape(33, 70, 4, 2, 9),
)
# Several tiles of rows, or of keys.
LONG = (*SHAPES[3:], Shape(40, 40, 1, 1, 20))
LARGE = Shape(1024, 1024, 8, 2, 32)  # on a GPU
AT_MOST = 0.5  # of our time, on a GPU: see docs/results/labs_*.json
# At most 32 keys: they fit one tile.
SHORT = (*SHAPES[:2], Shape(20, 31, 3, 1, 12), Shape(32, 32, 4, 2, 32))


class Problem:
    """Random queries, keys and values, and what is right of them, in float64."""

    def __init__(self, rng, shape, size=1.0):
        S, T, H, G, D = shape
        self.shape, self.size = shape, size
        self.q, self.k, self.v = (
            rng.normal(size=each).astype(np.float32) for each in ((S, H, D), (T, G, D), (T, G, D))
        )
        self.scale = np.float32(size / math.sqrt(D))
        self.out = np.full((S, H, D), np.nan, np.float32)

    @property
    def what(self):
        """The shape in words."""
        S, T, H, G, D = self.shape
        return f"S = {S}, T = {T}, H = {H}, G = {G}, D = {D}, scores of size {self.size:g}"

    def scores(self):
        """Return the scores [H, S, T] and how much a dot product in float32 may miss them."""
        S, T, H, G, D = self.shape
        q = self.q.astype(np.float64).transpose(1, 0, 2)
        k = self.k.astype(np.float64).repeat(H // G, axis=1).transpose(1, 2, 0)
        scale = np.float64(self.scale)
        right, bound = q @ k * scale, np.abs(q) @ np.abs(k) * scale * gamma(D + 2)
        hidden = np.arange(T) > T - S + np.arange(S)[:, None]
        return np.where(hidden, -np.inf, right), np.where(hidden, 0, bound)

    def attended(self):
        """Return the output [S, H, D] and how much float32 may miss it.

        A power is wrong by its score's error, and by the roundings of its argument, which is as far
        below 0 as the score is below the largest. Each tile multiplies by a power more. A weight
        has the error of its power and that of the sum.
        """
        _, T, H, G, _ = self.shape
        scores, errors = self.scores()
        below = scores.max(axis=2, keepdims=True) - scores
        weights = np.exp(-below)
        reach = np.where(np.isfinite(below), below, 0).max(axis=2, keepdims=True)
        relative = 2 * errors.max(axis=2, keepdims=True) + gamma(8) * reach
        relative = 2 * (relative + gamma(T + 8 * math.ceil(T / 32) + 8))
        weights /= weights.sum(axis=2, keepdims=True)
        v = self.v.astype(np.float64).repeat(H // G, axis=1).transpose(1, 0, 2)
        mixed, bound = weights @ v, relative * (weights @ np.abs(v))
        return mixed.transpose(1, 0, 2), bound.transpose(1, 0, 2) + 2.0**-126

    def seen(self, query):
        """Return how many keys a query sees."""
        return self.shape.T - self.shape.S + query + 1


def one_query_a_warp(student, problem):
    """Run `attention_online`, and hold it to attention in float64."""
    q, k, v, out = problem.q, problem.k, problem.v, problem.out
    grid = math.ceil(problem.shape.S / 4), problem.shape.H
    ran = student.launch("attention_online", grid, (32, 4), (q, k, v, problem.scale, out))
    close(out, *problem.attended(), f"out, for {problem.what}")
    return ran


def tile_grid(shape):
    """Return the grid of steps 3 and 4: blocks of 32 rows of each KV head."""
    return math.ceil(shape.S * (shape.H // shape.G) / 32), shape.G


def in_tiles(student, kernel, problem):
    """Run `attention_short` or `attention`, and hold it to attention in float64."""
    q, k, v, out = problem.q, problem.k, problem.v, problem.out
    ran = student.launch(kernel, tile_grid(problem.shape), (32, 8), (q, k, v, problem.scale, out))
    close(out, *problem.attended(), f"out, for {problem.what}")
    return ran


def writes_only_the_output(ran, shape):
    """Hold a launch to writing each output once."""
    ran.arrays["out"].exactly("stores", shape.S * shape.H * shape.D, "Each output is written once.")
    ran.arrays["out"].exactly("loads", 0, "The output is not read.")


def without_queues(ran):
    """Hold a launch to one wavefront for each request to shared memory."""
    ran.at_least("shared_requests", 1, "Keys and values lie in shared memory.")
    ran.at_most(
        "bank_ways",
        1,
        "Which words do the 32 lanes of that line want, and in which banks are those?",
    )


dot = lab.step("Scores: dot products, and the mask")


@dot.check("finds all scores", points=2)
def _(student, rng):
    for shape in SHAPES:
        problem = Problem(rng, shape)
        S, T, H, _, _ = shape
        scores = np.full((H, S, T), np.nan, np.float32)
        args = (problem.q, problem.k, problem.scale, scores)
        ran = student.launch("attention_scores", (math.ceil(S / 4), H), (32, 4), args)
        right, bound = problem.scores()
        close(scores, right, bound, f"scores, for {problem.what}")
        loads = H * shape.D * sum(map(problem.seen, range(S)))
        ran.arrays["k"].at_most("loads", loads, "Keys that a query does not see are not loaded.")
        loads = S * H * shape.D
        ran.arrays["q"].at_most("loads", loads, "Components of the query come by shuffles.")


online = lab.step("The online rule: no score in memory")


@online.check("attends", points=3)
def _(student, rng):
    for shape in SHAPES:
        one_query_a_warp(student, Problem(rng, shape))


@online.check("is stable", points=1)
def _(student, rng):
    for shape in SHAPES[2:4]:
        one_query_a_warp(student, Problem(rng, shape, size=100.0))


@online.check("loads what a query sees, once", points=2)
def _(student, rng):
    for shape in SHAPES:
        problem = Problem(rng, shape)
        ran = one_query_a_warp(student, problem)
        writes_only_the_output(ran, shape)
        loads = shape.H * shape.D * sum(map(problem.seen, range(shape.S)))
        for name in ("k", "v"):
            ran.arrays[name].at_most("loads", loads, f"{name} is loaded once for each query.")
        ran.exactly("shared_requests", 0, "Registers and shuffles are enough.")


tile = lab.step("A tile of keys for 32 rows")


@tile.check("attends to one tile", points=3)
def _(student, rng):
    for shape in SHORT:
        in_tiles(student, "attention_short", Problem(rng, shape))


@tile.check("reads a number once for four rows", points=2)
def _(student, rng):
    for shape in SHORT[2:]:
        ran = in_tiles(student, "attention_short", Problem(rng, shape))
        without_queues(ran)
        blocks = math.prod(tile_grid(shape))
        # 2 x 32 rows are stored; each of 8 warps reads D columns of keys and 32 rows of values.
        most = blocks * (64 + 8 * (shape.D + 32))
        ran.at_most(
            "shared_requests", most, "Read a number into a variable, and use it for all four rows."
        )
        requests = 2 * min(shape.T, 32) * blocks + 2 * shape.S * shape.H
        ran.at_most("global_sectors", 5 * requests, "A row of D numbers is 4 sectors, or 5.")


walk = lab.step("Any number of keys")


@walk.check("attends", points=3)
def _(student, rng):
    for shape in (*SHAPES[:3], *LONG):
        in_tiles(student, "attention", Problem(rng, shape))
    in_tiles(student, "attention", Problem(rng, SHAPES[3], size=100.0))


@walk.check("loads a key once, and none that nobody sees", points=2)
def _(student, rng):
    for shape in LONG:
        problem = Problem(rng, shape)
        ran = in_tiles(student, "attention", problem)
        writes_only_the_output(ran, shape)
        without_queues(ran)
        group = shape.H // shape.G
        keys = 0
        for first in range(0, shape.S * group, 32):
            last = min(first + 32, shape.S * group) - 1
            tiles = math.ceil(problem.seen(last // group) / 32)
            keys += min(32 * tiles, shape.T) * shape.G
        for name in ("k", "v"):
            why = "A block loads the tiles that its rows see, each once."
            ran.arrays[name].at_most("loads", keys * shape.D, why)
        requests = 2 * keys + 2 * shape.S * shape.H
        ran.at_most("global_sectors", 5 * requests, "A row of D numbers is 4 sectors, or 5.")


@walk.check(
    f"takes at most {AT_MOST} times as long as our padded step", points=3, gpu=True, at_most=AT_MOST
)
def _(student, rng):
    problem = Problem(rng, LARGE)
    q, k, v, out = problem.q, problem.k, problem.v, problem.out
    raced = student.race(
        "attention", q, k, v, problem.scale, out, grid=tile_grid(LARGE), block=(32, 8),
        against="llm_numba.kernels.attention:causal_attention",
        against_args=(q, k, v, float(problem.scale)), step="padded",
    )  # fmt: skip
    close(out, *problem.attended(), f"out, for {problem.what}")
    raced.at_most(AT_MOST, "A key that is in shared memory serves 32 rows, four at a time.")
