"""Many requests of random lengths at once: throughput, idle time of the GPU, waste of the cache."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from llm_numba.bench.engine_steps import EngineTimer, exactly
from llm_numba.bench.gpu_timing import CudaEvents, Events
from llm_numba.bench.record import Result
from llm_numba.bench.timing import Statistic


class IdleTime:
    """How long a GPU had nothing to do between pieces of work.

    An event is queued before each piece and one behind it. If the GPU is still busy with the piece
    before, the first is passed as soon as that ends; if not, only when the host comes along with
    it. So the time from the end of one piece to the begin of the next is what the host kept the
    GPU waiting.

    Parameters
    ----------
    events : Events
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._marks: list[tuple[Any, Any]] = []

    @contextmanager
    def watching(self, holder: Any, method: str) -> Iterator[None]:
        """Put events around each call of a method that queues work.

        Parameters
        ----------
        holder : object
        method : str
        """
        queue = getattr(holder, method)

        def queue_between_marks(*args: Any) -> Any:
            begin = self._events.record()
            result = queue(*args)
            self._marks.append((begin, self._events.record()))
            return result

        setattr(holder, method, queue_between_marks)
        try:
            yield
        finally:
            delattr(holder, method)

    @property
    def share(self) -> float:
        """Of the time from the first piece to the end of the last."""
        self._events.synchronize()
        gaps = itertools.pairwise(self._marks)
        idle = sum(self._events.seconds(end, begin) for (_, end), (begin, _) in gaps)
        return idle / self._events.seconds(self._marks[0][0], self._marks[-1][1])


def serve(timer: EngineTimer, count: int, lengths: tuple[int, int], seed: int) -> Iterator[Result]:
    """Run requests that all come at once, and wait for the last token.

    Parameters
    ----------
    timer : EngineTimer
    count : int
        How many requests.
    lengths : tuple of (int, int)
        Least and greatest length of a prompt, and of an answer; shorter where the model's context
        is.
    seed : int
        Of the lengths.

    Yields
    ------
    Result
        Tokens a second of answers and of all, the GPU's idle share, the waste of the cache.
    """
    rng = np.random.default_rng(seed)
    least, most = (min(each, timer.llm.max_model_len // 2) for each in lengths)
    prompts = rng.integers(least, most, size=count, endpoint=True).tolist()
    answers = rng.integers(least, most, size=count, endpoint=True).tolist()
    on_gpu = timer.llm.device == "cuda"
    idle = IdleTime(CudaEvents()) if on_gpu else None
    engine = timer.llm.engine
    before = engine.stats()
    with timer.running(
        [timer.prompt(length) for length in prompts], [exactly(length) for length in answers]
    ) as requests:
        begin = time.perf_counter()
        with idle.watching(engine.runner, "submit") if idle else nullcontext():
            while not all(request.finished for request in requests):
                engine.step()
        seconds = time.perf_counter() - begin
    after = engine.stats()
    shape = {
        "requests": count, "lengths": [least, most], "prompt_tokens": sum(prompts),
        "answer_tokens": sum(answers), "seconds": seconds,
    }  # fmt: skip
    rates = {
        "all": ("tokens of prompts and answers", sum(prompts) + sum(answers)),
        "answers": ("tokens of the answers", sum(answers)),
    }
    for name, (what, tokens) in rates.items():
        rate = tokens / seconds
        yield Result(f"serving/{name}", f"{what}, {count} requests", _one(rate, "tokens/s"), shape)
    if idle:
        what = "of that time the GPU waited for the host"
        yield Result("serving/idle", what, _one(100 * idle.share, "%"), shape, at_most=5.0)
    slots = after.num_slots - before.num_slots
    wasted = 100 * (after.num_unused_slots - before.num_unused_slots) / slots
    what = "slots of the sequences' blocks that held no token"
    yield Result("serving/waste", what, _one(wasted, "%"), shape, at_most=4.0)


def _one(value: float, unit: str) -> Statistic:
    return Statistic(unit, value, value, value, n=1, warmup=0)
