"""The persistent kernel against the graph of kernels: a step of one sequence, both in one run."""

from collections.abc import Callable, Iterator

from llm_numba.bench.budget import Budget
from llm_numba.bench.engine_fusion import give_memory_back
from llm_numba.bench.engine_steps import DecodePlan, EngineTimer
from llm_numba.bench.record import Result
from llm_numba.engine import LLM

_WAYS = {"graph": "a graph of kernels", "kernel": "one persistent kernel"}
# Besides those that the caller names: next to nothing to attend to.
_SHORTEST = 16


def persistent_results(
    load: Callable[..., LLM],
    contexts: tuple[int, ...],
    warmup: int,
    steps: int,
    seconds: float,
    seed: int,
    budget: Budget,
) -> Iterator[Result]:
    """Time a decode step of one sequence, by a graph and by the persistent kernel.

    Parameters
    ----------
    load : callable
        Makes the model, given ``persistent``.
    contexts : tuple of int
        The most important first. Those that the model or its cache has no room for are left out.
    warmup, steps : int
        Uncounted and counted steps of each measurement.
    seconds : float
        Counted steps end after so long, see :meth:`.EngineTimer.decode`.
    seed : int
        Of the prompts.
    budget : Budget
        With a part "persistent".

    Yields
    ------
    Result
        Milliseconds a step.

    Raises
    ------
    EngineError
        If there is no GPU, or the persistent kernel cannot run the model.
    """
    for name, what in _WAYS.items():
        llm = load(persistent=name == "kernel")
        timer = EngineTimer(llm, seed)
        for context in dict.fromkeys((*contexts, _SHORTEST)):
            plan = DecodePlan.around(context, warmup, steps, llm.max_model_len)
            key = f"persistent/context={plan.context}/{name}"
            if obstacle := timer.obstacle(1, plan):
                budget.left_out[key] = obstacle
                continue
            if not budget.allows(key, "persistent"):
                continue
            times = timer.decode(1, plan, seconds)
            yield Result(
                key,
                f"context {plan.context}: {what}",
                times.milliseconds,
                {"batch": 1, "context": plan.context, "way": name},
            )
        # Each one's KV cache takes what the GPU has left: two do not fit at a time.
        del llm, timer
        give_memory_back()
