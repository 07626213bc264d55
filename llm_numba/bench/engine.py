"""``llm-numba bench engine``: what an engine's users get, by the method that is usual.

Decoding: after 100 steps that do not count, the next 500 are timed one by one, from call to
return, by the host's clock. Mean, median and 99th percentile are kept; throughput is the batch
over the mean. What a step must read (weights once, keys and values of each sequence once), over
its time, stands beside what a copy reaches in the same run.

What is asked for most comes first. A part that fails, or for which there is no time, takes nothing
from the others: the record says what it lacks.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_numba.bench.bandwidth import weight_bandwidth
from llm_numba.bench.budget import Budget
from llm_numba.bench.engine_fusion import fusion_results, give_memory_back
from llm_numba.bench.engine_peers import peer_results
from llm_numba.bench.engine_persistent import persistent_results
from llm_numba.bench.engine_serving import serve
from llm_numba.bench.engine_steps import SHORT_CONTEXT, DecodePlan, EngineTimer
from llm_numba.bench.profile_traffic import StepShape, step_traffic, weight_bytes
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.engine import LLM
from llm_numba.errors import LLMNumbaError
from llm_numba.runtime import resolve_device

# In the order in which they run, and what each may take of the time.
PARTS = {
    "decode": 0.25, "prefill": 0.05, "peers": 0.4, "fusion": 0.1, "persistent": 0.15,
    "serving": 0.05,
}  # fmt: skip

# What an H100 should reach: milliseconds a step, by model, batch and context.
_AT_MOST_MS = {
    ("random:llama-3.2-1b", 1, 512): 1.2,
    ("random:llama-3-8b", 1, 512): 5.9,
}
# And the share of the copy.
_AT_LEAST_PERCENT = {("random:llama-3-8b", 8, 512): 80.0}


@dataclass(frozen=True)
class EngineSettings:
    """What to run.

    Attributes
    ----------
    model, device, dtype
        As of :class:`~llm_numba.LLM`.
    parts : tuple of str
        Of :data:`PARTS`.
    batches, contexts : tuple of int
        All batches are measured at `context`, all contexts at the least batch and at `batch`. A
        context of all that the model takes is measured as near to that as steps have room, and
        named after where that is.
    context, batch : int
        The classic table's.
    first_batches, first_contexts : tuple of int
        Of these, as far as they are asked for, every batch is measured at every context, before
        all others.
    warmup, steps : int
        Uncounted and counted steps of each.
    point_seconds : float
        Counted steps of one measurement end after so long, see :meth:`.EngineTimer.decode`.
    prompts : tuple of int
        Lengths of the prompts whose first token is timed.
    requests : int
        Of the serving run.
    lengths : tuple of (int, int)
        Least and greatest length of its prompts, and of its answers.
    seed : int
        Of prompts and lengths.

    Raises
    ------
    LLMNumbaError
        If a part is unknown, or a context too short for steps around it.
    """

    model: str
    device: str = "cuda"
    dtype: str | None = None
    parts: tuple[str, ...] = tuple(PARTS)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    contexts: tuple[int, ...] = (128, 512, 2048, 8192, 32768)
    context: int = 512
    batch: int = 32
    first_batches: tuple[int, ...] = (1, 8, 32)
    first_contexts: tuple[int, ...] = (512, 8192)
    warmup: int = 100
    steps: int = 500
    point_seconds: float = 2.0
    prompts: tuple[int, ...] = (128, 512, 2048)
    requests: int = 256
    lengths: tuple[int, int] = (100, 1024)
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(PARTS):
            raise LLMNumbaError(
                f"There is no part {min(unknown)!r}.", f"Choose from: {', '.join(PARTS)}."
            )
        if (shortest := min(*self.contexts, self.context)) < 4:
            raise LLMNumbaError(
                f"A context of {shortest} has no room for a prompt and steps behind it.",
                "Give contexts of at least 4 tokens.",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def budget(self, limit_seconds: float) -> Budget:
        """Return one for the parts that are asked for.

        Parameters
        ----------
        limit_seconds : float
            From now on.
        """
        shares = {part: share for part, share in PARTS.items() if part in self.parts}
        return Budget(limit_seconds, shares)

    @property
    def first_points(self) -> list[tuple[int, int]]:
        """Batch and context of each decode measurement for which there must be time."""
        batches = [each for each in self.first_batches if each in self.batches]
        contexts = [each for each in self.first_contexts if each in (*self.contexts, self.context)]
        return list(itertools.product(batches, contexts))

    @property
    def points(self) -> list[tuple[int, int]]:
        """Batch and context of each decode measurement, each once."""
        along_batches = [(batch, self.context) for batch in self.batches]
        along_contexts = [(batch, each) for batch in self.two_batches for each in self.contexts]
        return list(dict.fromkeys([*self.first_points, *along_batches, *along_contexts]))

    @property
    def two_batches(self) -> tuple[int, ...]:
        """The least batch, and the one for throughput if it is asked for."""
        least = min(self.batches)
        both = self.batch in self.batches and self.batch != least
        return (least, self.batch) if both else (least,)


Load = Callable[..., LLM]


def measure(settings: EngineSettings, budget: Budget) -> Iterator[Result]:
    """Run the benchmark.

    Parameters
    ----------
    settings : EngineSettings
    budget : Budget
        As of :meth:`EngineSettings.budget`. It notes what was left out.

    Yields
    ------
    Result
        As soon as it is measured.

    Raises
    ------
    LLMNumbaError
        If the model cannot be had or run at all.
    """
    device = resolve_device(settings.device)
    speeds = _memory_speed(device)
    yield Result("memory_speed", _CEILINGS[device], summarize(speeds, "GB/s"))
    load = functools.partial(
        LLM,
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        max_num_seqs=max(settings.batches),
    )
    speed = float(np.median(speeds))
    runs = {
        "decode, prefill": _steps(load, settings, budget, speed),
        "peers": peer_results(settings.model, settings.context, settings.steps, budget),
        "fusion": _fusion(load, settings, budget),
        "persistent": _persistent(load, settings, budget),
        "serving": _serving(load, settings, budget),
    }
    if device != "cuda":
        del runs["peers"], runs["persistent"]
    for parts, measured in runs.items():
        if set(parts.split(", ")) & set(settings.parts):
            yield from budget.results(parts, measured)
            # Each run has a model of its own, and two of the size of the memory do not fit.
            give_memory_back()


def _steps(load: Load, settings: EngineSettings, budget: Budget, speed: float) -> Iterator[Result]:
    timer = EngineTimer(load(), settings.seed)
    if "decode" in settings.parts:
        yield from _decode(timer, settings, budget, speed)
    if "prefill" in settings.parts:
        yield from _prefill(timer, settings, budget)
    # At the end: what the largest steps allocate is there by then.
    yield from _footprint(timer.llm)


def _fusion(load: Load, settings: EngineSettings, budget: Budget) -> Iterator[Result]:
    shapes = (settings.two_batches, settings.context)
    steps, seconds = min(settings.steps, 100), settings.point_seconds / 2
    yield from fusion_results(load, *shapes, steps, seconds, settings.seed, budget)


def _persistent(load: Load, settings: EngineSettings, budget: Budget) -> Iterator[Result]:
    # The usual one first: the kernel's first measurement compiles it, and the time may end there.
    contexts = (settings.context, *(each for each in settings.contexts if each <= 2048))
    plan = (contexts, settings.warmup, settings.steps)
    yield from persistent_results(load, *plan, settings.point_seconds, settings.seed, budget)


def _serving(load: Load, settings: EngineSettings, budget: Budget) -> Iterator[Result]:
    def in_time() -> bool:
        return budget.allows("serving", "serving")

    if in_time():
        timer, at_once = EngineTimer(load(), settings.seed), max(settings.batches)
        many = (settings.requests, settings.lengths, settings.seed, at_once)
        yield from serve(timer, *many, in_time)


_CEILINGS = {
    "cuda": "device-to-device copy, read and written",
    "cpu": "reading a matrix, in a product with a vector",
    "sim": "reading a matrix, in a product with a vector",
}


def _memory_speed(device: str) -> list[float]:
    if device != "cuda":
        return weight_bandwidth(200, 5, 2)
    import cupy

    from llm_numba.bench.gpu_timing import GPUTimer, copy_bandwidth

    speeds = [speed / 1e9 for speed in copy_bandwidth(GPUTimer())]
    cupy.get_default_memory_pool().free_all_blocks()
    return speeds


def _footprint(llm: LLM) -> Iterator[Result]:
    """Tell what the model and its cache take, and on a GPU whether all was foreseen."""
    runner = llm.engine.runner
    held = {"weights": weight_bytes(runner.model), "KV cache": runner.kv_cache.num_bytes}
    for name, size in held.items():
        yield Result(f"memory/{name}", f"memory of the {name}", summarize([size / 1e9], "GB"))
    if llm.device == "cuda":
        import cupy

        # What CuPy keeps of arrays that are gone counts: a step will take it again.
        free, total = cupy.cuda.runtime.memGetInfo()
        taken, foreseen = total - free, llm.memory.taken
        off = 100 * abs(taken - foreseen) / foreseen
        yield Result(
            "memory/foreseen", "memory in all, foreseen", summarize([foreseen / 1e9], "GB")
        )
        yield Result("memory/taken", "memory in all, taken", summarize([taken / 1e9], "GB"))
        yield Result("memory/off", "the one off the other", summarize([off], "%"), at_most=3.0)


def _decode(
    timer: EngineTimer, settings: EngineSettings, budget: Budget, speed: float
) -> Iterator[Result]:
    runner = timer.llm.engine.runner
    first_points = settings.first_points
    for point in settings.points:
        batch, asked = point
        longest = timer.llm.max_model_len
        plan = DecodePlan.around(asked, settings.warmup, settings.steps, longest)
        context, part = plan.context, None if point in first_points else "decode"
        name, key = f"batch={batch}/context={context}", (settings.model, batch, asked)
        if obstacle := timer.obstacle(batch, plan):
            budget.left_out[f"decode/{name}"] = obstacle
            continue
        if not budget.allows(f"decode/{name}", part):
            continue
        times = timer.decode(batch, plan, settings.point_seconds)
        seconds = times.seconds
        mean = float(np.mean(seconds))
        moved = step_traffic(runner.model, runner.kv_cache, StepShape(batch, 1, context))
        share = 100 * moved.num_bytes / mean / (1e9 * speed)
        shape = {
            "batch": batch,
            "context": context,
            "mean_ms": 1e3 * mean,
            "p99_ms": 1e3 * float(np.quantile(seconds, 0.99)),
            "tokens_per_second": batch / mean,
            "weight_bytes": moved.weights,
            "kv_bytes": moved.kv,
        }
        yield Result(
            f"decode/{name}",
            f"a decode step, batch {batch}, context {context}",
            times.milliseconds,
            shape,
            at_most=_AT_MOST_MS.get(key),
        )
        yield Result(
            f"transfer/{name}",
            "bytes it must read, of what the copy moves in that time",
            summarize([share], "%"),
            {"batch": batch, "context": context},
            at_least=_AT_LEAST_PERCENT.get(key),
        )


def _prefill(timer: EngineTimer, settings: EngineSettings, budget: Budget) -> Iterator[Result]:
    for tokens in settings.prompts:
        name = f"first_token/tokens={tokens}"
        if tokens >= timer.llm.max_model_len:
            budget.left_out[name] = SHORT_CONTEXT
            continue
        if not budget.allows(name, "prefill"):
            continue
        timer.first_token(tokens)  # compiles
        seconds = _within(lambda tokens=tokens: timer.first_token(tokens), settings.point_seconds)
        yield Result(
            name,
            f"from a prompt of {tokens} tokens to the first of the answer",
            summarize([1e3 * each for each in seconds], "ms", warmup=1),
            {"tokens": tokens, "tokens_per_second": tokens / float(np.median(seconds))},
        )


def _within(work: Callable[[], float], budget_seconds: float) -> list[float]:
    """Repeat what times itself, 3 to 20 times."""
    seconds = [work() for _ in range(3)]
    while len(seconds) < 20 and sum(seconds) < budget_seconds:
        seconds.append(work())
    return seconds
