"""A model on several ranks that are threads, and what its answers say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llm_numba import LLM
from llm_numba.engine.outputs import RequestOutput
from llm_numba.parallel import Communicator, Mesh, run_ranks

T = TypeVar("T")


def on_ranks(
    tp: int,
    pp: int,
    work: Callable[[LLM], T],
    model: str | Path,
    device: str = "cpu",
    **options: Any,
) -> T:
    """What rank 0 returns of its work with a model that tp x pp ranks hold."""

    def rank(world: Communicator) -> T | None:
        mesh = Mesh(tp, pp, world=world)
        with LLM(model, device=device, mesh=mesh, **options) as llm:
            return work(llm) if llm.leads else llm.follow()

    first, *others = run_ranks(tp * pp, rank)
    assert others == [None] * len(others)
    return first


def answers(outputs: list[RequestOutput]) -> list[list[tuple]]:
    """Words, tokens, why each ended, and which tokens were reported beside each, in their order."""
    return [
        [
            (
                sample.text,
                sample.token_ids,
                sample.finish_reason,
                sample.logprobs and [list(found) for found in sample.logprobs],
            )
            for sample in output.outputs
        ]
        for output in outputs
    ]
