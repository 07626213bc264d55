"""``llm-numba bench gemm``: matrix products as a model calls them, against cuBLAS in the same run.

What is timed is what :func:`llm_numba.kernels.linear.linear` launches: the kernel that it chooses
is in the record. Beside it the steps of the ladders on tensor cores. Each is held to the reference
in float64 on rows and columns from all over the result, which was poisoned before; and it must
give the same bits again, a hundred times.

Ours and cuBLAS's, which PyTorch calls, take turns, now the one first and now the other: both meet
the same pauses, temperatures and clocks, which are read meanwhile. Numbers are random, for tensor
cores that multiply zeros draw less power and run faster. Operands take turns too, so that none is
found in the L2 cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_numba.bench import gemm_pipeline
from llm_numba.bench.budget import Budget
from llm_numba.bench.choosing import chosen
from llm_numba.bench.gemm_goals import PREFIX, reached
from llm_numba.bench.gemm_peers import APART, CUBLAS, peers
from llm_numba.bench.gemm_points import (
    EPILOGUES,
    PARTS,
    PRODUCTS,
    Plan,
    Product,
    bits,
    expected,
    plan,
    why_not,
)
from llm_numba.bench.gpu_timing import (
    Capture,
    GPUTimer,
    Timing,
    Work,
    capture_launches,
    read_bandwidth,
)
from llm_numba.bench.kernel_points import allowed_error, relative_error
from llm_numba.bench.kernels import import_torch, poison
from llm_numba.bench.nvml import ClockWatch, Read, reader
from llm_numba.bench.record import Result, renew
from llm_numba.bench.timing import summarize
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.ladder import Operands
from llm_numba.runtime import Launch, kind_of, launch_all, to_device

# Each part's share of the time is about what it takes on an H100, in seconds, compiling included.
_SHARES = {
    "projections": 60,
    "small": 14,
    "epilogues": 12,
    "half": 7,
    "tf32": 8,
    "steps": 18,
    "pipeline": 6,
}
# More than the L2 cache of any GPU (60 MB on an H200), several times over.
_ROTATED_BYTES = 256 << 20
_CHECKED = 64  # rows and columns
_SMALL_ROUNDS = 2  # few rows heat nothing, and each round captures a graph anew
# Parts that look at shapes of others from another side. Those have cuBLAS's and the plain speed.
_AGAIN = ("epilogues", "steps")
READ = "read"
PICTURES = ("pipeline",)  # what a record has beside its results


@dataclass(frozen=True)
class GemmSettings:
    """What to run.

    Attributes
    ----------
    only : tuple of str
        Names or patterns of parts or products, ``"small"`` or ``"*/4096x*"``; empty for all.
    rounds : int
        Times that all ways of a product take turns.
    repeats : int
        Runs of each, each time.
    identical : int
        Runs that must give the same bits.
    """

    only: tuple[str, ...] = ()
    rounds: int = 8
    repeats: int = 6
    identical: int = 100

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def budget(self, limit_seconds: float) -> Budget:
        """Return one for the chosen parts.

        Parameters
        ----------
        limit_seconds : float
            From now on.
        """
        parts = {product.part for product in choose(self.only)}
        return Budget(limit_seconds, {part: _SHARES[part] for part in PARTS if part in parts})


def choose(only: Sequence[str]) -> list[Product]:
    """Return the products that are asked for.

    Parameters
    ----------
    only : sequence of str
        As of :class:`GemmSettings`.

    Raises
    ------
    LLMNumbaError
        If one names nothing.
    """
    offered = f"a part of {', '.join(PARTS)}, or products: {PRODUCTS[0].label}"
    return chosen(only, PRODUCTS, lambda product: (product.label, product.part), offered)


def measure(
    settings: GemmSettings, budget: Budget, wrong: list[LLMNumbaError], pictures: dict[str, Any]
) -> Iterator[Result]:
    """Run the benchmark on this machine's GPU.

    Parameters
    ----------
    settings : GemmSettings
    budget : Budget
        As of :meth:`GemmSettings.budget`. It notes what was left out.
    wrong : list of LLMNumbaError
        Gets what is said of ways that compute something wrong. They are not timed.
    pictures : dict
        Takes what is no figure, see :func:`.gemm_pipeline.measure`.

    Yields
    ------
    Result
        How fast memory is read, for the roofline; then for each product the speed of each way and
        of cuBLAS, and what share that is.
    """
    timer = GPUTimer(settings.repeats, warmup=1, ahead=1)
    bench = Bench(settings, budget, timer, import_torch(), reader(), wrong)
    reads = [rate / 1e9 for rate in read_bandwidth(timer)]
    yield from budget.results(READ, [Result(READ, "reading alone", summarize(reads, "GB/s"))])
    for product in choose(settings.only):
        if budget.allows(product.label, product.part):
            looked_into = gemm_pipeline.measure(product, timer, pictures)
            measured = bench.measure(product) if product.ways else looked_into
            yield from budget.results(product.label, measured)
        _free_memory()


@dataclass(frozen=True)
class Bench:
    """What measures a product.

    Attributes
    ----------
    settings : GemmSettings
    budget : Budget
    timer : GPUTimer
    torch : module or None
    read : callable or None
        Of the clocks, as of :func:`.nvml.reader`.
    wrong : list of LLMNumbaError
    device : {"cuda", "sim"}
    """

    settings: GemmSettings
    budget: Budget
    timer: GPUTimer
    torch: Any
    read: Read | None
    wrong: list[LLMNumbaError]
    device: str = "cuda"

    def measure(self, product: Product) -> Iterator[Result]:
        """Check all ways of a product, then time them and cuBLAS in turns.

        Parameters
        ----------
        product : Product

        Yields
        ------
        Result
        """
        count = max(2, -(-_ROTATED_BYTES // product.bytes))
        sets = [product.operands(seed, self.device) for seed in range(count)]
        notes: dict[str, dict[str, Any]] = {}
        contenders: dict[str, tuple[list[Work], Capture]] = {}
        for way in product.ways:
            name = f"{product.label}/{way}"
            if obstacle := why_not(way, sets[0]["x"]):
                self.budget.left_out[name] = obstacle
                continue
            if not self.budget.allows(name, product.part):
                continue
            try:
                plans, notes[way] = self.check(product, way, sets)
            except LLMNumbaError as error:
                self.wrong.append(error)
                continue
            works = [lambda each=each: launch_all(each.launches) for each in plans]
            contenders[way] = works, capture_launches
        if not contenders:
            return
        contenders |= peers(self.torch, product, sets)
        rounds = _SMALL_ROUNDS if product.part == "small" else self.settings.rounds
        with ClockWatch(self.read) as watch:
            timings = _in_turns(contenders, self.timer, rounds)
        yield from _results(product, timings, notes, watch.to_json())

    def check(
        self, product: Product, way: str, sets: Sequence[Operands]
    ) -> tuple[list[Plan], dict[str, Any]]:
        """Hold what a way computes to the reference, to its first bits, and to writing all.

        Parameters
        ----------
        product : Product
        way : str
        sets : sequence of dict
            Operands; the first are computed with.

        Returns
        -------
        plans : list of Plan
            One for each set.
        notes : dict
            ``kernels``, their names; ``error``, that was found; ``identical``, runs.

        Raises
        ------
        LLMNumbaError
            If it is wrong.
        """
        planned = [plan(way, operands) for operands in sets]
        launches, out = planned[0].launches, planned[0].written
        poison(out)
        launch_all(launches)
        rows, columns = (
            np.unique(np.linspace(0, length - 1, _CHECKED).astype(np.int64)) for length in out.shape
        )
        found = planned[0].result(rows, columns)
        error = relative_error(found, expected(way, sets[0], rows, columns))
        allowed = max(allowed_error(found, product.K), planned[0].rounding)
        first = bits(out).copy()
        if not error <= allowed:  # NaN is never right
            said = f"is off by {error:.2g} of its norm, where {allowed:.2g} is rounding"
        elif int((first == np.iinfo(first.dtype).max).sum()):
            said = "leaves outputs unwritten"
        elif different := self._different(launches, out, first):
            said = f"computes {different} numbers otherwise when it is run again"
        else:
            kernels = [launch.kernel.py_func.__name__ for launch in launches]
            notes = {"kernels": kernels, "error": error, "identical": self.settings.identical}
            return planned, notes
        raise LLMNumbaError(
            f"{way} of {product.label}, {product.dtype}, {said}.",
            "A wrong kernel has no speed; run its tests.",
        )

    def _different(self, launches: Sequence[Launch], out: Any, first: Any) -> int:
        """Count what differs from the first run, over all runs."""
        total = to_device(np.zeros((), np.int64), kind_of(out))
        for _ in range(self.settings.identical):
            poison(out)
            launch_all(launches)
            total += (bits(out) != first).sum()
        return int(total)


def _in_turns(
    contenders: dict[str, tuple[list[Work], Capture]], timer: GPUTimer, rounds: int
) -> dict[str, Timing]:
    """Time all, and in every second round in the opposite order: nobody is always the first."""
    found: dict[str, list[Timing]] = {}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            found.setdefault(name, []).append(timer.time(*contenders[name]))
    return {name: _joined(timings) for name, timings in found.items()}


def _joined(timings: Sequence[Timing]) -> Timing:
    return Timing(
        [seconds for each in timings for seconds in each.seconds],
        float(np.mean([each.host_seconds for each in timings])),
        sum(each.warmup for each in timings),
        max(each.captured for each in timings),
    )


def _results(
    product: Product,
    timings: dict[str, Timing],
    notes: dict[str, dict[str, Any]],
    clocks: dict[str, float],
) -> Iterator[Result]:
    sizes = {"M": product.M, "N": product.N, "K": product.K, "dtype": product.dtype}
    sizes |= {"part": product.part, "flops": product.flops, "bytes": product.bytes} | clocks
    for way, timing in timings.items():
        if product.part in _AGAIN and way in ("linear", CUBLAS):
            continue
        name = f"{way}/{product.key}"
        shape = sizes | notes.get(way, {}) | {
            "microseconds": round(1e6 * timing.median, 3),
            "host_bound": timing.host_bound,
            "captured": timing.captured,
        }  # fmt: skip
        rates = [product.flops / seconds / 1e12 for seconds in timing.seconds]
        yield Result(name, name, summarize(rates, "TFLOP/s", warmup=timing.warmup), shape)
        if way != CUBLAS and (theirs := timings.get(CUBLAS)):
            shares = [theirs.median / seconds for seconds in timing.seconds]
            share = summarize(shares, "x", warmup=timing.warmup)
            yield Result(f"of_{CUBLAS}/{name}", f"{name}: of cuBLAS", share, sizes)
        if way in EPILOGUES and way != "linear" and (plain := timings.get("linear")):
            more = [100 * (seconds / plain.median - 1) for seconds in timing.seconds]
            told = summarize(more, "%", warmup=timing.warmup)
            both = sizes | {"microseconds": 1e6 * timing.median, "plain": 1e6 * plain.median}
            yield Result(f"over_linear/{name}", f"{name}: more than the plain product", told, both)
        if way == "bias_gelu" and (apart := timings.get(APART)):
            less = [100 * (1 - seconds / apart.median) for seconds in timing.seconds]
            told = summarize(less, "%", warmup=timing.warmup)
            yield Result(f"saved/{name}", f"{name}: less than with GELU apart", told, sizes)


def completed(
    record: dict[str, Any], earlier: dict[str, Any] | None, only: Sequence[str]
) -> dict[str, Any]:
    """Put what was measured into an earlier record, if any, and add what is reached by all of it.

    Parameters
    ----------
    record : dict
        With its ``left_out``, and of :data:`PICTURES` what was measured.
    earlier : dict or None
        Of the same benchmark.
    only : sequence of str
        What was asked for.

    Returns
    -------
    dict
        A new record.

    Raises
    ------
    LLMNumbaError
        If the two were not made alike.
    """
    left_out = record["left_out"]
    if earlier is not None:
        again = tuple(f"{each.label}/" for each in choose(only))
        kept = {n: w for n, w in earlier["left_out"].items() if not f"{n}/".startswith(again)}
        pictures = {name: record[name] for name in PICTURES if name in record}
        record, left_out = renew(earlier, record, only, (READ,)) | pictures, kept | left_out
    measured = [each for each in record["results"] if not each["name"].startswith(f"{PREFIX}/")]
    goals = reached({each["name"]: each for each in measured})
    results = measured + [goal.to_json() for goal in goals]
    return record | {"results": results, "left_out": left_out}


def _free_memory() -> None:
    """Give memory back to the driver: PyTorch and CuPy hold pools of their own."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
