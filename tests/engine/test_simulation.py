"""Thousands of random requests through scheduler and engine, every step held to what it may be."""

import numpy as np
import pytest

from llm_numba import SamplingParams
from llm_numba.engine.core import Engine
from llm_numba.engine.request import Request
from llm_numba.engine.sampling_params import PRIORITIES

from .fake import EOS, VOCAB_SIZE, expected_answer, new_engine

# Few blocks, odd sizes, tiny budgets, more places than tokens, limits by class.
ENGINES = {
    "few blocks": {"num_blocks": 24, "block_size": 4},
    "blocks of one token": {"num_blocks": 144, "block_size": 1, "max_num_seqs": 4},
    "five tokens a step": {"num_blocks": 90, "block_size": 3, "max_num_batched_tokens": 5},
    "many places": {"num_blocks": 60, "block_size": 5, "max_num_seqs": 64},
    "micro-batches": {
        "num_blocks": 60,
        "block_size": 4,
        "max_num_seqs": 9,
        "max_seqs_by_priority": {"interactive": 4, "batch": 5},
    },
    "no prefix cache": {"num_blocks": 30, "block_size": 4, "prefix_caching": False},
}
MAX_MODEL_LEN = 36


class Day:
    """Requests that come and go at random."""

    def __init__(self, engine: Engine, seed: int, priorities: tuple[str, ...] = PRIORITIES) -> None:
        self.engine = engine
        self.priorities = priorities
        self.rng = np.random.default_rng(seed)
        self.openings = [self.rng.integers(1, VOCAB_SIZE, 16).tolist() for _ in range(3)]
        self.live: dict[Request, int] = {}  # by their place in the order of arrival
        self.num_arrived = self.num_finished = self.num_aborted = 0
        self.admitted: dict[str, list[int]] = {name: [] for name in PRIORITIES}

    def run(self, num_requests: int, crowd: int = 40) -> None:
        """Step until so many requests are through."""
        rng = self.rng
        while self.num_arrived < num_requests or self.live:
            while self.num_arrived < num_requests and len(self.live) < crowd and rng.random() < 0.6:
                self.arrive()
            if self.live and rng.random() < 0.02:
                self.engine.abort(request := list(self.live)[rng.integers(len(self.live))])
                del self.live[request]
                self.num_aborted += 1
            if self.live:
                self.step()

    def arrive(self) -> None:
        rng = self.rng
        prompt = rng.integers(1, VOCAB_SIZE, rng.integers(1, 9)).tolist()
        if rng.random() < 0.5:  # some begin alike
            prompt = self.openings[rng.integers(3)][: rng.integers(1, 17)] + prompt
        max_tokens = int(rng.integers(1, 12))
        cache = self.engine.runner.kv_cache
        most = cache.allocator.num_blocks // cache.blocks_for(len(prompt) + max_tokens)
        n = int(rng.choice([n for n in (1, 1, 1, 1, 2, 4) if n <= most]))
        params = SamplingParams(
            n=n,
            temperature=n - 1,
            seed=int(rng.integers(1 << 40)),
            max_tokens=max_tokens,
            priority=str(rng.choice(self.priorities)),
        )
        request = self.engine.new_request(None, prompt, params)
        self.engine.add(request)
        self.live[request] = self.num_arrived
        self.num_arrived += 1

    def step(self) -> None:
        before = self.engine.stats()
        ran = {sequence.request for sequence in self.engine.running}
        self.engine.step()
        after = self.engine.stats()
        assert after.num_steps > before.num_steps or self.engine.runner.depth, "a step gets on"
        self.check_order(ran)
        for request in [request for request in self.live if request.finished]:
            self.check_answer(request)
            del self.live[request]
            self.num_finished += 1

    def check_order(self, ran: set[Request]) -> None:
        """In each class: who runs came before all who wait; who is new came after all others."""
        for name in PRIORITIES:
            places = [
                [self.live[s.request] for s in sequences if s.request.params.priority == name]
                for sequences in (self.engine.running, self.engine._scheduler.waiting)
            ]
            running, waiting = places
            assert running == sorted(running), name
            assert waiting == sorted(waiting), name
            assert not running or not waiting or running[-1] <= waiting[0], name
        for request in {s.request: None for s in self.engine.running}:
            if (
                request not in ran
                and self.live[request] not in self.admitted[request.params.priority]
            ):
                self.admitted[request.params.priority].append(self.live[request])

    @staticmethod
    def check_answer(request: Request) -> None:
        """Whatever else ran, and however often it was stopped: the tokens of the formula."""
        assert request.error is None
        for sequence in request.sequences:
            assert sequence.output.token_ids == expected_answer(
                request.prompt_token_ids, request.seed, sequence.output.index, request.max_tokens
            )
        tokens = [i for chunk in request.chunks if chunk.index == 0 for i in chunk.token_ids]
        assert tokens == request.sequences[0].output.token_ids


def check_all_through(day: Day, num_requests: int) -> None:
    assert day.num_finished + day.num_aborted == num_requests
    assert day.num_aborted > num_requests // 200
    for admitted in day.admitted.values():
        assert admitted == sorted(admitted), "nobody of a class is ever overtaken"
    engine = day.engine
    allocator = engine.runner.kv_cache.allocator
    assert allocator.num_free == allocator.num_blocks
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    for group in engine._scheduler._classes:
        assert not group.running
        assert not group.waiting


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_300_random_requests_get_their_answers_in_order_and_leave_nothing(options, depth):
    day = Day(new_engine(depth=depth, max_model_len=MAX_MODEL_LEN, **options), seed=depth)
    day.run(300)
    check_all_through(day, 300)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_5000_random_requests_get_their_answers_in_order_and_leave_nothing(options, depth):
    day = Day(new_engine(depth=depth, max_model_len=MAX_MODEL_LEN, **options), seed=2 + depth)
    day.run(5000)
    check_all_through(day, 5000)


@pytest.mark.parametrize("depth", [0, 1])
def test_with_few_blocks_sequences_are_stopped_and_with_many_none_is(depth):
    few, many = (
        Day(new_engine(blocks, depth=depth, max_model_len=MAX_MODEL_LEN), 5, ("batch",))
        for blocks in (18, 400)
    )
    few.run(200)
    many.run(200)
    assert few.engine.stats().num_preemptions > 0
    assert many.engine.stats().num_preemptions == 0


def serve(num_requests: int, depth: int) -> Engine:
    """Requests as in the engine's benchmark: prompts and answers of 100 to 1024 tokens."""
    rng = np.random.default_rng(0)
    engine = new_engine(
        num_blocks=256 * 129,
        block_size=16,
        depth=depth,
        max_model_len=2048,
        max_num_seqs=256,
        max_num_batched_tokens=2048,
    )
    requests = []
    for _ in range(num_requests):
        prompt = rng.integers(1, VOCAB_SIZE, rng.integers(100, 1025)).tolist()
        length = int(rng.integers(100, 1025))
        params = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        requests.append(engine.new_request(None, prompt, params))
        engine.add(requests[-1])
    while not all(request.finished for request in requests):
        engine.step()
    for request in requests:
        assert len(request.sequences[0].output.token_ids) == request.max_tokens
    return engine


def test_the_cache_wastes_less_than_4_percent_of_its_slots():
    """Half a block a sequence, of some 800 tokens: about 1 %."""
    stats = serve(24, depth=0).stats()
    assert 0.002 < stats.kv_waste < 0.04


@pytest.mark.slow
def test_256_long_requests_at_a_time_waste_less_than_4_percent_too():
    assert serve(512, depth=1).stats().kv_waste < 0.04


def test_the_formula_depends_on_each_token_and_on_the_sample():
    """Or else a block mixed up would go unseen."""
    prompt = [1, 2, 3, 4, 5]
    answers = {
        tuple(expected_answer([*prompt[:i], 9, *prompt[i + 1 :]], 1, 0, 12, eos=None))
        for i in range(5)
    }
    answers |= {tuple(expected_answer(prompt, 1, index, 12, eos=None)) for index in range(3)}
    answers.add(tuple(expected_answer(prompt, 2, 0, 12, eos=None)))
    assert len(answers) == 9
    assert any(EOS in answer for answer in answers)
