"""Lab 10: its steps and checks."""

import numpy as np
from grader import Lab, close, fail, gamma, same

lab = Lab(
    title="Column- and row-parallel linear layers",
    goal="Spread a layer over ranks so that one all-reduce is enough.",
    needs="a laptop; MPI for the second tier",
    ranks=True,
)

RANKS = (1, 2, 4)


def numbers(rng, *shape):
    """Draw float32 numbers around 0."""
    return rng.normal(size=shape).astype(np.float32)


def product_bound(x, weight, bias, ranks):
    """Bound how far x W^T + b in float32 is from float64, in whatever order it is added up."""
    exact = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T
    return gamma(x.shape[1] + ranks + 1) * (exact + np.abs(bias))


def product(x, weight, bias):
    """Return x W^T + b in float64."""
    return x.astype(np.float64) @ weight.astype(np.float64).T + bias


def same_bits(values, what):
    """Fail if a rank has other bits than rank 0."""
    for rank, value in enumerate(values):
        if value.tobytes() != values[0].tobytes():
            fail(
                f"{what} has other bits on rank {rank} than on rank 0. All ranks must add in one"
                " order: the sum of floating-point numbers depends on it."
            )


def communication(ran, wanted):
    """Fail unless each rank has taken part in just these operations: (name, numbers) each."""
    for rank, events in enumerate(ran.events):
        did = [tuple(event) for event in events]
        if did != wanted:
            told = [" of ".join(map(str, event)) for event in did] or ["nothing"]
            right = [" of ".join(map(str, event)) for event in wanted] or ["nothing"]
            fail(
                f"Rank {rank} has communicated by {', '.join(told)} numbers; the requirement is"
                f" {', '.join(right)}."
            )


shards = lab.step("Shards")


@shards.check("shares everything, once", points=1)
def _(student, rng):
    for count, ranks in ((12, 4), (13, 4), (3, 4), (0, 2), (int(rng.integers(20, 90)), 7)):
        spans = [student.call("share", count, ranks, rank) for rank in range(ranks)]
        covered = [i for begin, end in spans for i in range(begin, end)]
        same(covered, list(range(count)), f"the shares of {count} things among {ranks} ranks")
        lengths = [end - begin for begin, end in spans]
        if max(lengths) - min(lengths) > 1:
            fail(f"The shares of {count} things among {ranks} ranks are uneven: {lengths}.")


@shards.check("cuts shards that are the whole weight together", points=1)
def _(student, rng):
    weight, bias = numbers(rng, 10, 7), numbers(rng, 10)
    for ranks in RANKS:
        columns = [student.call("column_shard", weight, bias, ranks, r) for r in range(ranks)]
        rows = [student.call("row_shard", weight, ranks, r) for r in range(ranks)]
        where = f"{ranks} ranks"
        same(np.concatenate([w for w, _ in columns]), weight, f"column shards' weights of {where}")
        same(np.concatenate([b for _, b in columns]), bias, f"column shards' biases of {where}")
        same(np.concatenate(rows, axis=1), weight, f"row shards' weights of {where}")


products = lab.step("Two kinds of products")


@products.check("gives each rank its outputs", points=1)
def _(student, rng):
    x, weight, bias = numbers(rng, 3, 8), numbers(rng, 5, 8), numbers(rng, 5)
    y = student.call("column_parallel", x, weight, bias)
    close(y, product(x, weight, bias), product_bound(x, weight, bias, 1), "column_parallel(...)")


def row_parallel(student, rng, ranks, M=3, N=6, K=10):
    """Run row_parallel on ranks, and compare with the whole product."""
    x, weight, bias = numbers(rng, M, K), numbers(rng, N, K), numbers(rng, N)
    cuts = [K * r // ranks for r in range(ranks + 1)]

    def args_of(rank):
        part = slice(cuts[rank], cuts[rank + 1])
        return x[:, part].copy(), weight[:, part].copy(), bias

    ran = student.ranks(ranks, "row_parallel", args_of)
    for rank, y in enumerate(ran.values):
        right, bound = product(x, weight, bias), product_bound(x, weight, bias, ranks)
        close(y, right, bound, f"row_parallel(...) on rank {rank} of {ranks}")
    return ran


@products.check("adds up all parts, and the bias once", points=2)
def _(student, rng):
    for ranks in RANKS:
        row_parallel(student, rng, ranks)


@products.check("has the same bits everywhere, by one all-reduce", points=2)
def _(student, rng):
    ran = row_parallel(student, rng, 4, M=4, N=32, K=64)
    same_bits(ran.values, "The result of row_parallel")
    communication(ran, [("all_reduce", 4 * 32)])


block = lab.step("A whole MLP")


def whole_mlp(x, up, up_bias, down, down_bias):
    """Return the MLP in float64, and how far float32 may be from it."""
    inner = product(x, up, up_bias)
    error = product_bound(x, up, up_bias, 1)
    activated = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    # The slope of GELU is below 1.13. Its formula rounds about ten times, at the size of its terms;
    # where 1 + tanh cancels, that is the size of x itself.
    error = 1.13 * error + gamma(12) * np.abs(inner) * (1 + inner**2)
    reach = np.abs(activated) @ np.abs(down.astype(np.float64)).T + np.abs(down_bias)
    bound = error @ np.abs(down.astype(np.float64)).T + gamma(down.shape[1] + 6) * reach
    return activated @ down.astype(np.float64).T + down_bias, bound


@block.check("equals the MLP of one rank", points=2)
def _(student, rng):
    for ranks, F in ((1, 8), (2, 12), (4, 13)):
        weights = numbers(rng, F, 6), numbers(rng, F), numbers(rng, 6, F), numbers(rng, 6)
        x = numbers(rng, 3, 6)
        ran = student.ranks(ranks, "mlp", lambda rank, given=(x, *weights): given)
        right, bound = whole_mlp(x, *weights)
        for rank, y in enumerate(ran.values):
            close(y, right, bound, f"mlp(...) on rank {rank} of {ranks}, F = {F}")


@block.check("needs one all-reduce", points=2)
def _(student, rng):
    given = numbers(rng, 3, 6), numbers(rng, 16, 6), numbers(rng, 16), numbers(rng, 6, 16)
    bias = numbers(rng, 6)

    def args_of(rank):
        x, up, up_bias, down = (each.copy() for each in given)
        others = np.arange(16) // 4 != rank
        up[others], up_bias[others], down[:, others] = np.nan, np.nan, np.nan
        return x, up, up_bias, down, bias

    ran = student.ranks(4, "mlp", args_of)
    right, bound = whole_mlp(*given, bias)
    for rank, y in enumerate(ran.values):
        if np.isnan(y).any():
            fail(
                f"mlp(...) on rank {rank} of 4 is NaN. All weights but the rank's own part were NaN"
                " here: it has used the part of another rank."
            )
        close(y, right, bound, f"mlp(...) on rank {rank} of 4, F = 16")
    same_bits(ran.values, "The result of mlp")
    communication(ran, [("all_reduce", 3 * 6)])


vocabulary = lab.step("The vocabulary")


@vocabulary.check("cuts the head into parts of equal length", points=1)
def _(student, rng):
    for V, ranks in ((12, 4), (13, 4), (5, 4), (7, 2)):
        whole = numbers(rng, V, 6)
        parts = [student.call("padded_head", whole, ranks, rank) for rank in range(ranks)]
        same([len(part) for part in parts], [-(-V // ranks)] * ranks, f"rows a rank, for V = {V}")
        together = np.concatenate(parts)
        same(together[:V], whole, f"the parts together, for V = {V} and {ranks} ranks")
        same(together[V:], np.zeros_like(together[V:]), "the rows of padding")


def head_parts(whole, ranks):
    """Cut a head into equal parts, zeros at the end."""
    rows = -(-len(whole) // ranks)
    padded = np.zeros((rows * ranks, whole.shape[1]), np.float32)
    padded[: len(whole)] = whole
    return np.split(padded, ranks)


def chosen(student, x, whole, ranks):
    """Run next_tokens on ranks, and compare with the whole head."""
    parts = head_parts(whole, ranks)
    ran = student.ranks(ranks, "next_tokens", lambda rank: (x, parts[rank], len(whole)))
    right = (x.astype(np.float64) @ whole.T.astype(np.float64)).argmax(axis=1)
    for rank, tokens in enumerate(ran.values):
        what = f"next_tokens(...) on rank {rank} of {ranks}, V = {len(whole)}"
        same(np.asarray(tokens).tolist(), right.tolist(), what)
    return ran


def integers(rng, *shape):
    """Draw numbers whose products and sums float32 has exactly, so that ties are ties."""
    return rng.integers(-4, 5, size=shape).astype(np.float32)


@vocabulary.check("finds the largest logit, whoever has it", points=1)
def _(student, rng):
    for V, ranks in ((8, 1), (12, 2), (13, 4)):
        # The best token of each row has a logit that no other token has.
        head = integers(rng, V, 16)
        logits = (x := integers(rng, 40, 16)) @ head.T
        clear = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) == 1
        chosen(student, x[clear][:6], head, ranks)


@vocabulary.check("never lets padding win, nor the last of equals", points=2)
def _(student, rng):
    whole = integers(rng, 9, 4)
    whole[:, 0] = -8 * np.arange(1, 10)  # with x = (1, 0, 0, 0) all logits are negative
    x = np.float32([[1, 0, 0, 0]])
    chosen(student, x, whole, 4)
    chosen(student, x, np.full((5, 4), -1, np.float32), 4)
    chosen(student, integers(rng, 8, 2), integers(rng, 40, 2), 4)


@vocabulary.check("sends two numbers a row", points=1)
def _(student, rng):
    ran = chosen(student, integers(rng, 5, 16), integers(rng, 30, 16), 4)
    communication(ran, [("all_gather", 2 * 5)])
