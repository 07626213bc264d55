"""Many requests of random lengths at once: throughput, idle time of the GPU, waste of the cache."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_numba.bench.engine_steps import EngineTimer, exactly, make_known
from llm_numba.bench.gpu_timing import CudaEvents, Events
from llm_numba.bench.record import Result
from llm_numba.bench.timing import summarize
from llm_numba.runtime import Graph


@dataclass(frozen=True)
class Mark:
    """A step in the GPU's queue.

    Attributes
    ----------
    begin, end : event
        Before its first kernel, and behind its last.
    launching : float
        Seconds that the host took to launch its kernels one by one; 0 for a graph.
    """

    begin: Any
    end: Any
    launching: float


class IdleTime:
    """How long a GPU had nothing to do while an engine ran.

    An event is queued right before a step's graph, and one behind the step. If the GPU is still
    busy with the step before, the first is passed as soon as that ends; if not, only when the host
    comes along with it. So the time from the end of one step to the begin of the next is what the
    host kept the GPU waiting. Within a graph there is no waiting. A step whose kernels are launched
    one by one, as prompts are, counts as idle as a whole if the launching took 80 % of it or more:
    nobody knows then which of the two waited.

    Parameters
    ----------
    events : Events
    clock : callable
        The host's, in seconds.
    """

    def __init__(self, events: Events, clock: Callable[[], float] = time.perf_counter) -> None:
        self._events, self._clock = events, clock
        self._marks: list[Mark] = []

    @contextmanager
    def watching(self, runner: Any) -> Iterator[None]:
        """Put events around each step that a runner queues.

        Parameters
        ----------
        runner : ModelRunner
        """
        submit, launch = runner.submit, Graph.launch
        begins: list[Any] = []

        def launch_behind_mark(graph: Graph, stream: Any = None) -> None:
            begins.append(self._events.record())
            launch(graph, stream)

        def submit_between_marks(step: Any) -> Any:
            begins.clear()
            start, begin = self._clock(), self._events.record()
            submitted = submit(step)
            launching = 0.0 if begins else self._clock() - start
            self._marks.append(Mark((begins or [begin])[0], self._events.record(), launching))
            return submitted

        runner.submit, Graph.launch = submit_between_marks, launch_behind_mark
        try:
            yield
        finally:
            del runner.submit
            Graph.launch = launch

    @property
    def share(self) -> float:
        """Of the time from the first step's begin to the end of the last."""
        self._events.synchronize()
        seconds, marks = self._events.seconds, self._marks
        idle = sum(seconds(before.end, mark.begin) for before, mark in itertools.pairwise(marks))
        spans = [(seconds(mark.begin, mark.end), mark.launching) for mark in marks]
        idle += sum(span for span, launching in spans if launching > 0.8 * span)
        return idle / seconds(marks[0].begin, marks[-1].end)


def serve(
    timer: EngineTimer,
    count: int,
    lengths: tuple[int, int],
    seed: int,
    at_once: int,
    in_time: Callable[[], bool],
) -> Iterator[Result]:
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
    at_once : int
        Sequences that the engine runs at a time, at most.
    in_time : callable
        Asked before each step; when it says no, all ends.

    Yields
    ------
    Result
        Tokens a second of answers and of all, the GPU's idle share, the waste of the cache. Nothing
        if there was no time for the last token: a rate without the end of the answers, when fewer
        and fewer run at once, would flatter.
    """
    rng = np.random.default_rng(seed)
    least, most = (min(each, timer.llm.max_model_len // 2) for each in lengths)
    prompts = rng.integers(least, most, size=count, endpoint=True).tolist()
    answers = rng.integers(least, most, size=count, endpoint=True).tolist()
    on_gpu = timer.llm.device == "cuda"
    if on_gpu:
        meet_prompts(timer, most)
    meet_batches(timer, min(count, at_once), 2 * most)
    idle = IdleTime(CudaEvents()) if on_gpu else None
    engine = timer.llm.engine
    before = engine.stats()
    with timer.running(
        [timer.prompt(length) for length in prompts], [exactly(length) for length in answers]
    ) as requests:
        begin = time.perf_counter()
        with idle.watching(engine.runner) if idle else nullcontext():
            while not all(request.finished for request in requests):
                if not in_time():
                    return
                timer.step(requests)
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
        rate = summarize([tokens / seconds], "tokens/s")
        yield Result(f"serving/{name}", f"{what}, {count} requests", rate, shape)
    if idle:
        what = "of that time the GPU waited for the host"
        yield Result("serving/idle", what, summarize([100 * idle.share], "%"), shape, at_most=5.0)
    slots = after.num_slots - before.num_slots
    wasted = 100 * (after.num_unused_slots - before.num_unused_slots) / slots
    what = "slots of the sequences' blocks that held no token"
    yield Result("serving/waste", what, summarize([wasted], "%"), shape, at_most=4.0)


def meet_prompts(timer: EngineTimer, longest: int) -> None:
    """Compile what prompts of every length need, and compute as many as fill a step to the brim.

    Parameters
    ----------
    timer : EngineTimer
    longest : int
        Tokens of the longest prompt.
    """
    timer.llm.engine.runner.compile_prompts()
    timer.llm.generate([timer.prompt(longest) for _ in range(4)], exactly(1))


def meet_batches(timer: EngineTimer, count: int, longest: int) -> None:
    """Decode once in each batch size that a run comes by, so that none of its graphs is missing.

    An engine captures a graph when it first meets a batch of that size. Here sequences end one
    after another, a step apart.

    Parameters
    ----------
    timer : EngineTimer
    count : int
        Sequences of the largest; where the cache has not room for so many, fewer.
    longest : int
        Tokens of the longest sequence, more than the count.
    """
    kv_cache = timer.kv_cache
    rows = min(count, kv_cache.allocator.num_blocks // kv_cache.blocks_for(longest))
    prompts = [timer.prompt(longest - rows - 1) for _ in range(rows)]
    make_known(kv_cache, prompts)
    answers = [exactly(number + 1) for number in range(rows)]
    with timer.running(prompts, answers) as requests:
        while not all(request.finished for request in requests):
            timer.step(requests)
