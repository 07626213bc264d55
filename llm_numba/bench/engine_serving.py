"""Many requests of random lengths at once: throughput, idle time of the GPU, waste of the cache."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from llm_numba.bench.engine_steps import EngineTimer, exactly
from llm_numba.bench.gpu_timing import CudaEvents, Events
from llm_numba.bench.record import Result
from llm_numba.bench.timing import Statistic, summarize
from llm_numba.engine.request import Request

# Looking at every sequence takes the host's time, which is what is being measured.
_STEPS_BETWEEN_LOOKS = 16


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
    wasted: list[float] = []
    with timer.running(
        [timer.prompt(length) for length in prompts], [exactly(length) for length in answers]
    ) as requests:
        begin = time.perf_counter()
        if idle:
            with idle.watching(engine.runner, "submit"):
                _run(engine, requests, wasted)
        else:
            _run(engine, requests, wasted)
        seconds = time.perf_counter() - begin
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
    what = "slots of the sequences' blocks that held no token"
    yield Result("serving/waste", what, summarize(wasted, "%"), shape, at_most=4.0)


def _run(engine: Any, requests: list[Request], wasted: list[float]) -> None:
    block_size = engine.runner.kv_cache.block_size
    step = 0
    while not all(request.finished for request in requests):
        engine.step()
        if step % _STEPS_BETWEEN_LOOKS == 0:
            tables = [each.table for request in requests for each in request.sequences]
            slots = sum(len(table.blocks) for table in tables) * block_size
            used = sum(table.num_tokens for table in tables)
            wasted.append(100 * (slots - used) / max(slots, 1))
        step += 1


def _one(value: float, unit: str) -> Statistic:
    return Statistic(unit, value, value, value, n=1, warmup=0)
