"""What the products are to reach on an H100, and what a record of ``bench gemm`` has of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_numba.bench.gemm_points import EPILOGUES, LARGE_ROWS, PRODUCTS, SQUARES
from llm_numba.bench.record import Result
from llm_numba.bench.tables import Results
from llm_numba.bench.timing import Statistic

PREFIX = "goal"


@dataclass(frozen=True)
class Goal:
    """One figure made of several results.

    Attributes
    ----------
    name : str
    what : str
    names : tuple of str
        Of the results.
    reduce : {"geomean", "least", "most", "best"}
        ``"most"`` is the worst of what should be small.
    must, stretch : float or None
        What it must reach, and what would be fine; with a plus of time, what it may take at most.
    """

    name: str
    what: str
    names: tuple[str, ...]
    reduce: str
    must: float | None = None
    stretch: float | None = None


def _of_cublas(part: str) -> tuple[str, ...]:
    among = (each for each in PRODUCTS if each.part == part)
    return tuple(f"of_cublas/{each.ways[0]}/{each.key}" for each in among)


def _goals() -> Iterator[Goal]:
    large, small, half = (_of_cublas(part) for part in ("projections", "small", "half"))
    yield Goal("projections", "all large products, of cuBLAS", large, "geomean", 0.97, 1.03)
    for size in SQUARES:
        name = f"of_cublas/linear/bfloat16/{size}x{size}x{size}"
        yield Goal(f"square_{size}", f"{size:,} cubed, of cuBLAS", (name,), "least", 1.0, 1.06)
    yield Goal("worst", "the worst large product, of cuBLAS", large, "least", 0.88, 0.95)
    for way in EPILOGUES:
        among = (each for each in PRODUCTS if way in each.ways and each.M in LARGE_ROWS)
        names = tuple(f"over_linear/{way}/{each.key}" for each in among)
        if way != "linear":
            what = f"`{way}` in the product, more time at worst"
            yield Goal(way, what, names, "most", 3.0, 1.0)
    cube = f"bfloat16/{SQUARES[-1]}x{SQUARES[-1]}x{SQUARES[-1]}"
    ways = (way for each in PRODUCTS if each.key == cube for way in each.ways)
    steps = tuple(f"{way}/{cube}" for way in ways if way.startswith("gemm_tensorcore/"))
    what = f"the best step by `mma.sync`, {SQUARES[-1]:,} cubed"
    yield Goal("mma_sync", what, steps, "best", 500.0, 580.0)
    yield Goal("small", "products of 8 to 128 rows, of cuBLAS", small, "geomean", 1.0, 1.1)
    yield Goal("float16", "in float16, of cuBLAS", half, "geomean")
    yield Goal("tf32", "float32 as tf32, of cuBLAS", _of_cublas("tf32"), "geomean")


GOALS = tuple(_goals())


def reached(results: Results) -> list[Result]:
    """Return what a record has of each goal; of those of which it has anything.

    Parameters
    ----------
    results : mapping of str to dict
        Of the record, by name.
    """
    return [
        _reached(goal, found)
        for goal in GOALS
        if (found := [results[name] for name in goal.names if name in results])
    ]


def _reached(goal: Goal, found: Sequence[dict[str, Any]]) -> Result:
    shape: dict[str, Any] = {"measured": len(found), "of": len(goal.names)}
    if goal.stretch is not None:
        shape["stretch"] = goal.stretch
    if goal.reduce == "geomean":
        figures = {
            each: math.exp(float(np.mean([math.log(one[each]) for one in found])))
            for each in ("p10", "median", "p90")
        }
    else:
        choose = min if goal.reduce == "least" else max
        one = choose(found, key=lambda each: each["median"])
        figures = {each: one[each] for each in ("p10", "median", "p90")}
        shape["which"] = one["name"]
    statistic = Statistic(found[0]["unit"], **figures, n=len(found), warmup=0)
    more = {"at_most": goal.must} if goal.reduce == "most" else {"at_least": goal.must}
    return Result(f"{PREFIX}/{goal.name}", goal.what, statistic, shape, **more)
