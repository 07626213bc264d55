"""What each fusion buys: from kernels launched one by one to everything fused, step by step.

The first row launches every operation by itself, the second replays the same launches as a graph,
and each further row switches one more fusion on. All are the same model, to roundings.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from llm_numba.bench.budget import Budget
from llm_numba.bench.engine_steps import DecodePlan, EngineTimer
from llm_numba.bench.record import Result
from llm_numba.engine import LLM
from llm_numba.models import Execution

_SWITCH = "fuse_"


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Attributes
    ----------
    name : str
        Stays the same from run to run.
    what : str
        What is new in it.
    execution : Execution
    enforce_eager : bool
        Whether kernels are launched one by one.
    """

    name: str
    what: str
    execution: Execution
    enforce_eager: bool = False


def variants() -> list[Variant]:
    """Return the rows of the table, the slowest first."""
    switches = [each.name for each in fields(Execution) if each.name.startswith(_SWITCH)]

    def execution(count: int) -> Execution:
        return Execution(**{name: i < count for i, name in enumerate(switches)})

    found = [
        Variant("eager", "nothing fused, launched one by one", execution(0), enforce_eager=True),
        Variant("graph", "the same launches as a graph", execution(0)),
    ]
    for count, name in enumerate(switches, start=1):
        short = name.removeprefix(_SWITCH)
        found.append(Variant(short, f"and {short} fused", execution(count)))
    overlapping = Execution(overlap_launches=True)
    found.append(Variant("overlap", "and kernels start while those before end", overlapping))
    return found


def fusion_results(
    load: Callable[..., LLM],
    batches: tuple[int, ...],
    context: int,
    steps: int,
    seconds: float,
    seed: int,
    budget: Budget,
) -> Iterator[Result]:
    """Time a decode step of each variant.

    Parameters
    ----------
    load : callable
        Makes the model, given ``execution`` and ``enforce_eager``.
    batches : tuple of int
    context, steps : int
        Of each measurement, the context at most half of the model's; a tenth of the steps more do
        not count.
    seconds : float
        Counted steps end after so long, see :meth:`.EngineTimer.decode`.
    seed : int
        Of the prompts.
    budget : Budget
        With a part "fusion".

    Yields
    ------
    Result
        Milliseconds a step.
    """
    for variant in variants():
        if not budget.allows(f"fusion/{variant.name}", "fusion"):
            continue
        llm = load(execution=variant.execution, enforce_eager=variant.enforce_eager)
        timer = EngineTimer(llm, seed)
        near = min(context, llm.max_model_len // 2)
        plan = DecodePlan.around(near, max(1, steps // 10), steps, llm.max_model_len)
        for batch in batches:
            times = timer.decode(batch, plan, seconds)
            yield Result(
                f"fusion/batch={batch}/{variant.name}",
                f"batch {batch}: {variant.what}",
                times.milliseconds,
                {"batch": batch, "context": near, "what": variant.what},
            )
        # Two models of the size of the GPU's memory do not fit at a time.
        del llm, timer
        give_memory_back()


def give_memory_back() -> None:
    """Free what nobody refers to any more, cycles included, and what CuPy keeps of it."""
    gc.collect()
    if cupy := sys.modules.get("cupy"):
        cupy.get_default_memory_pool().free_all_blocks()
