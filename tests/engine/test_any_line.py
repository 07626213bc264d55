"""Ctrl-C and errors, at whatever line of the engine they come.

Ctrl-C costs the other requests no token and no block. An error ends all requests, and leaves the
engine as good as new.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from llm_numba.engine import interrupts
from llm_numba.errors import EngineError

from .fake import new_engine
from .test_simulation import ENGINES, MAX_MODEL_LEN, Day

pytestmark = pytest.mark.usefixtures("ctrl_c")
ALONE = contextlib.nullcontext()


@contextlib.contextmanager
def struck(strike: Callable[[], object], line: int) -> Iterator[None]:
    """Call a function before so many lines of the engine and of the cache have run."""
    lines = iter(range(line))

    def trace(frame, event, _):
        if event == "call":
            ours = ("/llm_numba/engine/", "/llm_numba/kvcache/")
            return trace if any(part in frame.f_code.co_filename for part in ours) else None
        if event == "line" and next(lines, None) == line - 1:
            strike()
        return trace

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(usual)


def ctrl_c_pressed() -> None:
    signal.raise_signal(signal.SIGINT)


def memory_short() -> None:
    raise MemoryError("the host has no more")


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_ctrl_c_at_any_line_of_a_step_leaves_the_others_their_answers(options, depth):
    """Nobody was stepping on his own account: so all requests go on."""
    engine = new_engine(depth=depth, max_model_len=MAX_MODEL_LEN, **options)
    day, rng, num_interrupts = Day(engine, seed=5), np.random.default_rng(6), 0
    while day.num_arrived < 100 or day.live:
        while day.num_arrived < 100 and len(day.live) < 12:
            day.arrive()
        try:
            line = int(rng.integers(1, 300))
            with struck(ctrl_c_pressed, line) if rng.random() < 0.3 else ALONE:
                engine.step()
        except KeyboardInterrupt:
            num_interrupts += 1
        for request in [request for request in day.live if request.finished]:
            day.check_answer(request)
            del day.live[request]
    assert num_interrupts > 10
    allocator = engine.runner.kv_cache.allocator
    assert allocator.num_free == allocator.num_blocks


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_an_error_at_any_line_of_a_step_leaves_an_engine_that_goes_on(options, depth):
    """Requests end with an error or with their whole answer, and no block is lost."""
    engine = new_engine(depth=depth, max_model_len=MAX_MODEL_LEN, **options)
    day, rng, num_errors = Day(engine, seed=7), np.random.default_rng(8), 0
    while day.num_arrived < 100 or day.live:
        while day.num_arrived < 100 and len(day.live) < 12:
            day.arrive()
        line = int(rng.integers(1, 300))
        trouble = struck(memory_short, line) if rng.random() < 0.1 else ALONE
        with contextlib.suppress(EngineError, MemoryError), trouble:
            engine.step()
        for request in [request for request in day.live if request.finished]:
            del day.live[request]
            if request.error is None:
                day.check_answer(request)
            else:
                num_errors += 1
    assert 0 < num_errors < 100
    allocator = engine.runner.kv_cache.allocator
    assert allocator.num_free == allocator.num_blocks


def test_the_block_runs_to_its_end_and_ctrl_c_takes_effect_there():
    done = []

    def work() -> None:
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_elses_stays_in_charge():
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append("at once"))
    with interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        assert came == ["at once"]


def test_threads_that_ctrl_c_never_reaches_are_left_alone():
    problems = []

    def work() -> None:
        try:
            with interrupts.deferred():
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []
