"""Steps made by hand, for tests of what runs them: no scheduler, no stop conditions, no text."""

from collections.abc import Iterable

from llm_numba import SamplingParams
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.step import IN_FLIGHT, Step, Work
from llm_numba.kvcache import PagedKVCache

VOCAB_SIZE = 272


def new_sequences(kv_cache: PagedKVCache, prompt: list[int], **fields) -> list[Sequence]:
    """The samples of a request."""
    params = SamplingParams(**{"temperature": 0.0, "seed": 1, **fields})
    request = Request("0", None, prompt, params, params.seed, max_tokens=10**6)
    request.sequences = [
        Sequence(request, index, kv_cache.new_table(), None) for index in range(params.n)
    ]
    return request.sequences


def prefill(request: Request, begin: int = 0, end: int | None = None) -> Work:
    """A piece of a request's prompt, to its end unless told otherwise."""
    first, *twins = request.sequences
    token_ids = request.prompt_token_ids[begin:end]
    slots = first.table.append_slots(len(token_ids))
    is_last = begin + len(token_ids) == len(request.prompt_token_ids)
    for twin in twins if is_last else ():
        twin.table = first.table.fork()
    return Work(first, token_ids, begin, slots, request.sequences if is_last else [])


def decode(sequence: Sequence, *, in_flight: bool = False) -> Work:
    """One token of a sequence: its last, or the one that the step before is sampling."""
    start = sequence.table.num_tokens
    token = IN_FLIGHT if in_flight else sequence.token_ids()[start]
    return Work(sequence, [token], start, sequence.table.append_slots(1), [sequence])


def step_of(works: Iterable[Work]) -> Step:
    works = sorted(works, key=lambda work: len(work.token_ids) > 1)
    return Step(works, sum(len(work.token_ids) for work in works))


def take(sampled) -> list[int]:
    """Append a step's tokens to their sequences."""
    for each in sampled:
        each.sequence.output.token_ids.append(each.token_id)
        if each.sequence.counts is not None:
            each.sequence.counts.add(each.token_id)
    return [each.token_id for each in sampled]
