"""The scheduler alone: first come, first served, and never more than fits."""

from collections.abc import Callable

import numpy as np
import pytest

from llm_numba import SamplingParams
from llm_numba.engine.core import Engine
from llm_numba.engine.request import Request, Sequence
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.scheduler import Scheduler
from llm_numba.engine.session import ChatSession
from llm_numba.kvcache import PagedKVCache

VOCAB_SIZE = 8


def new_cache(num_blocks: int, block_size: int = 4) -> PagedKVCache:
    """A cache of no layers: blocks are counted and nothing is stored."""
    return PagedKVCache(0, num_blocks, block_size, 1, 1, np.dtype(np.float32))


class Bench:
    """A scheduler with requests whose tokens a test computes by hand."""

    def __init__(self, num_blocks: int, reclaim: Callable[[], bool] = lambda: False, **limits):
        self.cache = new_cache(num_blocks)
        limits = {"max_num_seqs": 8, "max_num_batched_tokens": 100, **limits}
        self.scheduler = Scheduler(self.cache, reclaim=reclaim, **limits)

    def add(self, prompt_length: int, max_tokens: int = 4, n: int = 1) -> Request:
        request = Request("", None, [0] * prompt_length, SamplingParams(n=n), 0, max_tokens)
        request.sequences = [
            Sequence(request, i, self.cache.new_table(), None, VOCAB_SIZE) for i in range(n)
        ]
        self.scheduler.add(request)
        return request

    def step(self) -> list[Request]:
        """Compute what is scheduled and return whose it was."""
        scheduled = self.scheduler.schedule()
        for sequence in scheduled:
            sequence.table.append_slots(len(sequence.uncomputed_token_ids()))
            first = not sequence.output.token_ids
            for twin in sequence.request.sequences[1:] if first else []:
                twin.table = sequence.table.fork()
            for member in sequence.request.sequences if first else [sequence]:
                member.append(0, None, frozenset())
                if member.finished:
                    member.table.free()
        self.scheduler.remove_finished()
        return [sequence.request for sequence in scheduled]


def test_prompts_are_computed_together_and_then_decode_together():
    bench = Bench(num_blocks=20)
    requests = [bench.add(3), bench.add(7), bench.add(1)]
    assert bench.step() == requests
    assert bench.step() == requests


def test_a_newcomer_has_a_step_of_its_own_and_then_joins():
    bench = Bench(num_blocks=20)
    first = bench.add(3)
    bench.step()
    second = bench.add(3)
    assert bench.step() == [second]
    assert bench.step() == [first, second]


def test_a_request_that_does_not_fit_waits_and_so_do_all_behind_it():
    """The first may come to need 6 of 8 blocks, the second 4; the third's one would fit."""
    bench = Bench(num_blocks=8)
    first, second, third = bench.add(20, 4), bench.add(12, 4), bench.add(1, 3)
    assert [bench.step() for _ in range(4)] == [[first]] * 4
    assert first.finished
    assert bench.step() == [second, third]


def test_a_request_is_admitted_only_when_its_whole_answer_will_fit():
    """Two prompts of one block each fit in 4 blocks at once, but their answers would not."""
    bench = Bench(num_blocks=4)
    first, second = bench.add(4, max_tokens=8), bench.add(4, max_tokens=8)
    while not first.finished:
        assert bench.step() == [first]
    assert bench.step() == [second]


def test_samples_count_with_all_their_blocks_and_places():
    bench = Bench(num_blocks=6, max_num_seqs=3)
    pair, single, other = bench.add(4, 4, n=2), bench.add(1, 4), bench.add(1, 4)
    assert bench.step() == [pair, single]
    for _ in range(3):
        assert bench.step() == [pair, pair, single]
    assert bench.step() == [other]


def test_no_more_sequences_run_than_allowed():
    bench = Bench(num_blocks=50, max_num_seqs=2)
    requests = [bench.add(1, max_tokens=2) for _ in range(5)]
    assert [bench.step() for _ in range(6)] == [
        requests[:2],
        requests[:2],
        requests[2:4],
        requests[2:4],
        requests[4:],
        requests[4:],
    ]


def test_a_step_takes_no_more_prompt_tokens_than_allowed():
    bench = Bench(num_blocks=50, max_num_batched_tokens=10)
    requests = [bench.add(length) for length in (4, 6, 1)]
    assert bench.step() == requests[:2]
    assert bench.step() == requests[2:]
    assert bench.step() == requests


def test_a_prompt_longer_than_a_step_has_a_step_to_itself():
    bench = Bench(num_blocks=50, max_num_batched_tokens=10)
    requests = [bench.add(length) for length in (4, 30, 1)]
    assert [bench.step() for _ in range(3)] == [[request] for request in requests]


def test_tokens_that_are_cached_do_not_count():
    bench = Bench(num_blocks=50, max_num_batched_tokens=10)
    requests = [bench.add(8), bench.add(40)]
    requests[1].sequences[0].table.append_slots(38)
    assert bench.step() == requests


def test_kept_blocks_are_reclaimed_one_by_one_until_the_request_fits():
    kept: list = []

    def reclaim() -> bool:
        if kept:
            kept.pop().free()
            return True
        return False

    bench = Bench(8, reclaim)
    for _ in range(4):
        kept.append(bench.cache.new_table())
        kept[-1].append_slots(8)
    request = bench.add(12, 4)
    assert bench.step() == [request]
    assert len(kept) == 2, "no more than it takes"


def test_spare_blocks_are_those_that_nobody_may_come_to_need():
    bench = Bench(num_blocks=10)
    assert bench.scheduler.num_spare_blocks() == 10
    bench.add(4, max_tokens=8)
    for _ in range(7):
        bench.step()
        assert bench.scheduler.num_spare_blocks() == 7
    bench.step()
    assert bench.scheduler.num_spare_blocks() == 10


def test_an_aborted_request_is_forgotten_wherever_it_is():
    bench = Bench(num_blocks=10, max_num_seqs=2)
    requests = [bench.add(1) for _ in range(4)]
    bench.step()
    bench.scheduler.abort(requests[1])
    bench.scheduler.abort(requests[2])
    assert bench.step() == [requests[3]]
    assert bench.step() == [requests[0], requests[3]]


# -- A long random day ------------------------------------------------------------------------


class FakeModel:
    """Random logits, and a count of the sequences of each step."""

    class config:  # noqa: N801  stands for a ModelConfig
        vocab_size = VOCAB_SIZE

    lm_head = np.zeros(0)  # says where the model is: on the host

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps: list[tuple[int, int]] = []

    def forward(self, batch, kv_cache) -> np.ndarray:
        self.steps.append((len(batch.context_lens), len(batch.token_ids)))
        used = batch.slot_mapping
        assert len(set(used.tolist())) == len(used), "no two tokens share a slot"
        return np.zeros((len(batch.token_ids), 1))

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        return self.rng.normal(size=(len(hidden), VOCAB_SIZE)).astype(np.float32)


@pytest.mark.parametrize(
    ("num_blocks", "block_size", "max_num_seqs"),
    [(40, 4, 8), (144, 1, 4), (30, 5, 64), (300, 3, 16)],
)
def test_500_random_requests_all_finish_and_leave_nothing(num_blocks, block_size, max_num_seqs):
    """Short and long, with samples, sessions and aborts, arriving while others run.

    The KV cache raises if it is ever asked for a block it does not have, so an admission that
    promised too much would show.
    """
    rng = np.random.default_rng(num_blocks)
    model = FakeModel(num_blocks)
    cache = new_cache(num_blocks, block_size)
    engine = Engine(
        ModelRunner(model, cache, max_num_seqs, max_model_len=36),
        tokenizer=None,
        eos_token_ids=frozenset({0}),
        max_model_len=36,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=30,
    )
    sessions = [ChatSession() for _ in range(5)]
    session_of: dict[Request, ChatSession] = {}
    live: dict[Request, int] = {}
    started: list[int] = []
    arrived = finished = aborted = 0

    def arrive() -> None:
        prompt = rng.integers(1, 3, rng.integers(1, 25)).tolist()
        n = int(rng.choice([1, 1, 1, 1, 2, 4]))
        params = SamplingParams(n=n, temperature=n - 1, max_tokens=int(rng.integers(1, 12)))
        request = engine.new_request(None, prompt, params)
        idle = [s for s in sessions if s not in session_of.values()]
        if idle and rng.random() < 0.3:
            session_of[request] = rng.choice(idle)
        engine.add(request, session_of.get(request))
        live[request] = arrived

    def leave(request: Request) -> None:
        del live[request]
        session_of.pop(request, None)

    while arrived < 500 or live:
        while arrived < 500 and len(live) < 40 and rng.random() < 0.7:
            arrive()
            arrived += 1
        if live and rng.random() < 0.02:
            request = list(live)[rng.integers(len(live))]
            engine.abort(request)
            leave(request)
            aborted += 1
        if not live:
            continue
        waiting = [r for r in live if not r.metrics.num_generated_tokens]
        engine.step()
        started += [live[r] for r in waiting if r.metrics.num_generated_tokens]
        for request in [r for r in live if r.finished]:
            leave(request)
            finished += 1

    assert finished + aborted == 500
    assert aborted > 5
    assert started == sorted(started), "first come, first served"
    assert max(batch for batch, _ in model.steps) <= max_num_seqs
    for session in sessions:
        session.close()
    assert cache.allocator.num_free == num_blocks
