"""The scheduler, step by step: whose tokens, how many, and who has to make room."""

import time

import pytest

from llm_numba import SamplingParams
from llm_numba.engine.request import Request
from llm_numba.errors import CacheError, EngineError

from .fake import FakeRunner, new_engine


class Bench:
    """An engine that a test fills, and what each of its steps computed."""

    def __init__(self, num_blocks: int = 100, **options) -> None:
        self.engine = new_engine(num_blocks, **options)
        self.runner: FakeRunner = self.engine.runner

    def add(self, prompt_length: int, max_tokens: int = 4, n: int = 1, **fields) -> Request:
        # Prompts that differ in their first token: nobody finds another's blocks.
        first = self.engine._num_requests % 15 + 1
        prompt = [first] + [1] * (prompt_length - 1)
        fields = {"temperature": n - 1, "seed": 1, "ignore_eos": True, **fields}
        params = SamplingParams(n=n, max_tokens=max_tokens, **fields)
        request = self.engine.new_request(None, prompt, params)
        self.engine.add(request)
        return request

    def step(self) -> list[tuple[Request, int]]:
        """Whose tokens were computed in a step, and how many."""
        self.engine.step()
        return self.runner.steps[-1]

    def finish(self, *requests: Request) -> None:
        while not all(request.finished for request in requests):
            self.engine.step()

    @property
    def num_preemptions(self) -> int:
        return self.engine.stats().num_preemptions


# -- The budget -------------------------------------------------------------------------------


def test_prompts_are_computed_together_and_then_decode_together():
    bench = Bench()
    first, second, third = bench.add(3), bench.add(7), bench.add(1)
    assert bench.step() == [(third, 1), (first, 3), (second, 7)]
    assert bench.step() == [(first, 1), (second, 1), (third, 1)]


def test_a_newcomers_prompt_is_computed_beside_the_tokens_of_the_others():
    bench = Bench()
    first = bench.add(3)
    bench.step()
    second = bench.add(5)
    assert bench.step() == [(first, 1), (second, 5)]


def test_a_long_prompt_is_computed_in_pieces_that_fill_the_budget():
    bench = Bench(max_num_batched_tokens=10)
    decoding = bench.add(2, max_tokens=6)
    bench.step()
    long, behind = bench.add(22), bench.add(3)
    assert [bench.step() for _ in range(4)] == [
        [(decoding, 1), (long, 9)],
        [(decoding, 1), (long, 9)],
        [(decoding, 1), (long, 4), (behind, 3)],
        [(decoding, 1), (long, 1), (behind, 1)],
    ]


def test_all_who_run_have_a_token_in_each_step_even_if_the_budget_has_few():
    bench = Bench(max_num_batched_tokens=3)
    requests = [bench.add(1) for _ in range(5)]
    bench.finish(*requests)
    assert max(len(step) for step in bench.runner.steps) == 3


def test_no_more_sequences_run_than_allowed():
    bench = Bench(max_num_seqs=2)
    requests = [bench.add(1, max_tokens=2) for _ in range(5)]
    whose = [[request for request, _ in bench.step()] for _ in range(6)]
    assert whose == [requests[:2]] * 2 + [requests[2:4]] * 2 + [requests[4:]] * 2


def test_samples_take_a_place_each_and_part_when_the_prompt_is_read():
    bench = Bench(max_num_seqs=3, max_num_batched_tokens=4)
    three, other = bench.add(6, n=3), bench.add(1)
    assert [bench.step() for _ in range(2)] == [[(three, 4)], [(three, 2)]]
    assert bench.step() == [(three, 1)] * 3
    bench.finish(three)
    assert bench.step() == [(other, 1)]


def test_more_samples_than_the_class_may_run_are_refused():
    bench = Bench(max_seqs_by_priority={"batch": 2})
    with pytest.raises(CacheError, match="runs 2 sequences at a time"):
        bench.add(1, n=3, priority="batch")
    bench.finish(bench.add(1, n=3))


def test_a_step_of_256_sequences_is_filled_in_two_milliseconds():
    """Of the thread's own time, and the best of 20, for a busy machine.

    Work that grows with the square would take seconds.
    """
    bench = Bench(num_blocks=256 * 12, max_num_seqs=256, max_num_batched_tokens=2000)
    for _ in range(256):
        bench.add(4, max_tokens=40)
    bench.step()
    schedule, seconds = bench.engine._scheduler.schedule, []

    def timed():
        begin = time.thread_time()
        step = schedule()
        seconds.append(time.thread_time() - begin)
        return step

    bench.engine._scheduler.schedule = timed
    for _ in range(20):
        assert len(bench.step()) == 256
    assert min(seconds) < 2e-3


# -- The prefix cache -------------------------------------------------------------------------


def test_what_the_cache_knows_of_a_prompt_is_not_computed_again():
    bench = Bench()
    params = SamplingParams(temperature=0, max_tokens=1)
    prompt = list(range(1, 15))
    for computed in (14, 2):  # three full blocks of four are known
        request = bench.engine.new_request(None, prompt, params)
        bench.engine.add(request)
        assert bench.step() == [(request, computed)]
        assert request.metrics.num_cached_tokens == 14 - computed
    assert bench.engine.stats().prefix_hit_rate == 12 / 28


def test_an_answer_is_known_to_the_prompt_that_continues_it():
    bench = Bench()
    first = bench.add(6, max_tokens=10)
    bench.finish(first)
    prompt = first.prompt_token_ids + first.sequences[0].output.token_ids + [3]
    second = bench.engine.new_request(None, prompt, SamplingParams(temperature=0, max_tokens=1))
    bench.engine.add(second)
    # The last token's key was never needed, so of 17 tokens those of three blocks are there.
    assert bench.step() == [(second, 17 - 12)]


def test_a_prompt_that_fits_only_with_what_others_share_is_admitted():
    bench = Bench(num_blocks=13, max_model_len=52)
    prompt = list(range(1, 15)) * 2
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    first, second = (bench.engine.new_request(None, [*prompt, i], params) for i in (1, 2))
    bench.engine.add(first)
    bench.step()
    bench.engine.add(second)
    assert bench.step() == [(first, 1), (second, 1)], "eight blocks each, seven of them shared"


def test_a_prompt_that_was_refused_is_asked_again_when_a_block_comes_free():
    """It needs one block beside the seven that it shares, and never all eight at once."""
    bench = Bench(num_blocks=13, max_model_len=52)
    prompt = list(range(1, 15)) * 2
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    first, second = (bench.engine.new_request(None, [*prompt, i], params) for i in (1, 2))
    bench.engine.add(first)
    other = bench.add(13, max_tokens=2)
    bench.step()
    bench.engine.add(second)
    assert bench.step() == [(first, 1), (other, 1)]
    assert other.finished
    assert bench.step() == [(first, 1), (second, 1)]
    bench.finish(first, second)


# -- Short of blocks --------------------------------------------------------------------------


def test_the_youngest_is_stopped_when_no_block_is_left_and_computed_again_later():
    bench = Bench(num_blocks=6, max_model_len=24, prefix_caching=False)
    old, young = bench.add(7, max_tokens=12), bench.add(4, max_tokens=12)
    assert bench.step() == [(old, 7), (young, 4)]
    while not bench.num_preemptions:
        assert not old.finished
        bench.step()
    num_lost = len(young.sequences[0].output.token_ids)
    assert bench.engine.running == old.sequences
    bench.finish(old)
    assert bench.step() == [(young, 4 + num_lost)], "its prompt and its answer so far"
    bench.finish(young)


def test_what_the_cache_kept_of_a_stopped_sequence_is_not_computed_again():
    bench = Bench(num_blocks=6, max_model_len=24)
    old, young = bench.add(7, max_tokens=12), bench.add(4, max_tokens=12)
    while not bench.num_preemptions:
        bench.step()
    bench.engine.abort(old)
    num_known = 4 + len(young.sequences[0].output.token_ids)
    ((request, computed),) = bench.step()
    assert request is young
    assert computed < num_known
    assert young.metrics.num_cached_tokens == 0, "of its prompt, when it came"
    bench.finish(young)


def test_a_prompt_waits_for_its_blocks_and_all_behind_it_wait_too():
    """Eight blocks; the first holds five, the second needs four, the third would fit."""
    bench = Bench(num_blocks=8, max_model_len=32)
    first, second, third = bench.add(18, 2), bench.add(14, 2), bench.add(1, 2)
    assert bench.step() == [(first, 18)]
    assert bench.step() == [(first, 1)]
    assert bench.step() == [(third, 1), (second, 14)]


def test_nobody_is_admitted_into_the_blocks_of_a_prompt_that_is_still_being_read():
    bench = Bench(num_blocks=9, max_model_len=36, max_num_batched_tokens=8)
    long, other = bench.add(28, 2), bench.add(8, 2)
    bench.finish(long)
    assert all(request is long for step in bench.runner.steps[:-1] for request, _ in step)
    bench.finish(other)
    assert bench.num_preemptions == 0


def test_in_the_step_that_stops_somebody_no_lower_class_takes_the_blocks():
    bench = Bench(num_blocks=6, max_model_len=24, prefix_caching=False)
    old, young = bench.add(7, max_tokens=12), bench.add(4, max_tokens=12)
    while bench.engine.stats().num_free_blocks:
        bench.step()
    job = bench.add(1, max_tokens=1, priority="batch")
    while not bench.num_preemptions:
        step = bench.step()
    assert step == [(old, 1)]
    bench.finish(old, young, job)


def test_slots_without_a_token_are_counted_in_each_step():
    """Blocks of four; three tokens, then four, then five: of 4 + 4 + 8 slots 1 + 0 + 3."""
    bench = Bench()
    request = bench.add(3, max_tokens=4)
    for _ in range(3):
        bench.step()
    stats = bench.engine.stats()
    assert (stats.num_slots, stats.num_unused_slots, stats.kv_waste) == (16, 4, 0.25)
    bench.finish(request)


# -- Classes ----------------------------------------------------------------------------------


def test_interactive_requests_are_admitted_before_batch_jobs():
    bench = Bench(max_num_batched_tokens=8)
    job, chat = bench.add(8, priority="batch"), bench.add(8)
    assert bench.step() == [(chat, 8)]
    assert bench.step() == [(chat, 1), (job, 7)]


def test_an_interactive_prompt_goes_before_the_rest_of_a_batch_jobs():
    bench = Bench(max_num_batched_tokens=8)
    job = bench.add(30, priority="batch")
    assert bench.step() == [(job, 8)]
    chat = bench.add(6)
    assert bench.step() == [(chat, 6), (job, 2)]


def test_an_interactive_request_takes_the_place_of_the_youngest_job():
    bench = Bench(max_num_seqs=2)
    jobs = [bench.add(2, max_tokens=8, priority="batch") for _ in range(2)]
    bench.step()
    chat = bench.add(3)
    assert bench.step() == [(jobs[0], 1), (chat, 3)]
    assert bench.num_preemptions == 1
    bench.finish(*jobs)


def test_samples_that_have_not_parted_are_stopped_together():
    bench = Bench(max_num_seqs=3, max_num_batched_tokens=5)
    job = bench.add(7, n=3, priority="batch")
    assert bench.step() == [(job, 5)]
    chat = bench.add(2, max_tokens=1)
    assert bench.step() == [(chat, 2)]
    assert bench.num_preemptions == 3
    bench.finish(chat, job)


def test_an_interactive_request_takes_the_tokens_of_a_job_if_jobs_have_all():
    bench = Bench(max_num_batched_tokens=2)
    jobs = [bench.add(1, max_tokens=8, priority="batch") for _ in range(2)]
    bench.step()
    chat = bench.add(2, max_tokens=2)
    assert [bench.step() for _ in range(3)] == [[(chat, 1), (jobs[0], 1)]] * 3
    assert chat.finished
    bench.finish(*jobs)


def test_an_interactive_request_takes_the_blocks_of_jobs():
    bench = Bench(num_blocks=8, max_model_len=32)
    jobs = [bench.add(10, max_tokens=8, priority="batch") for _ in range(2)]
    bench.step()
    chat = bench.add(18, max_tokens=2)
    assert chat in [request for request, _ in bench.step()]
    bench.finish(chat, *jobs)


@pytest.mark.parametrize("max_num_seqs", [2, 8], ids=["no place free", "places free"])
def test_no_job_is_stopped_for_a_request_that_would_not_fit_even_then(max_num_seqs):
    bench = Bench(num_blocks=8, max_model_len=32, max_num_seqs=max_num_seqs)
    chat = bench.add(18, max_tokens=4)
    bench.step()
    job = bench.add(3, max_tokens=3, priority="batch")
    bench.step()
    bench.add(20, max_tokens=2)
    assert bench.step() == [(chat, 1), (job, 1)]
    assert bench.num_preemptions == 0


@pytest.mark.parametrize(("length", "num_stopped"), [(32, 0), (28, 2)])
def test_jobs_are_stopped_only_if_what_they_do_not_share_is_enough(length, num_stopped):
    """Of twelve blocks a chat holds four, and two jobs five each, but four of these together.

    One block stays for the chat to grow, so stopping both jobs makes room for seven blocks.
    """
    bench = Bench(num_blocks=12, max_model_len=48)
    opening = [*range(1, 15), 1, 1]
    chat = bench.add(13, max_tokens=8)
    bench.step()
    params = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, "priority": "batch"}
    for ending in ([1, 2], [3, 4, 5]):
        job = bench.engine.new_request(None, opening + ending, SamplingParams(**params))
        bench.engine.add(job)
        bench.step()
    newcomer = bench.add(length, max_tokens=2)
    step = bench.step()
    assert bench.num_preemptions == num_stopped
    assert (newcomer in [request for request, _ in step]) == (num_stopped > 0)
    bench.finish(chat, newcomer)


def test_classes_have_limits_of_their_own():
    """The classic division: chats one at a time, jobs eight at a time."""
    bench = Bench(max_num_seqs=9, max_seqs_by_priority={"interactive": 1, "batch": 8})
    for _ in range(2):
        bench.add(2, max_tokens=2)
    for _ in range(10):
        bench.add(2, max_tokens=2, priority="batch")
    for _ in range(2):
        names = [request.params.priority for request, _ in bench.step()]
        assert names == ["interactive"] + ["batch"] * 8


def test_no_job_is_stopped_for_blocks_that_a_chat_holds_too():
    """Of eight blocks a chat holds five, four of them with a job, which has one of its own.

    With one for the chat to grow, stopping the job would make room for two; three are wanted.
    """
    bench = Bench(num_blocks=8, max_model_len=32)
    opening = [*range(1, 15), 1, 1]
    for ending, priority in ([1, 2], "interactive"), ([3], "batch"):
        params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, priority=priority)
        request = bench.engine.new_request(None, opening + ending, params)
        bench.engine.add(request)
        bench.step()
    assert bench.engine.stats().num_free_blocks == 2
    newcomer = bench.add(12, max_tokens=2)
    assert newcomer not in [request for request, _ in bench.step()]
    assert bench.num_preemptions == 0
    bench.finish(newcomer)


def test_samples_count_one_by_one_against_the_limit_of_their_class():
    bench = Bench(max_seqs_by_priority={"batch": 3})
    first = bench.add(2, n=2, priority="batch")
    second = bench.add(2, n=2, priority="batch")
    bench.step()
    assert bench.engine.running == first.sequences
    bench.finish(first)
    assert bench.step() == [(second, 2)]


def test_the_limit_of_a_class_does_not_raise_that_of_all():
    bench = Bench(max_num_seqs=2, max_seqs_by_priority={"batch": 5})
    with pytest.raises(CacheError, match="runs 2 sequences at a time"):
        bench.add(1, n=3, priority="batch")


def test_a_limit_for_no_class_or_of_no_size_is_refused(new_llm):
    with pytest.raises(EngineError, match="no class of requests") as caught:
        new_llm(max_seqs_by_priority={"urgent": 1})
    assert caught.value.remedy == "Choose among interactive, batch."
    with pytest.raises(EngineError, match="out of range"):
        new_llm(max_seqs_by_priority={"batch": 0})


# -- A token in flight ------------------------------------------------------------------------


def test_the_last_token_in_flight_is_waited_for_and_nothing_is_computed_behind_it():
    bench = Bench(depth=1)
    request = bench.add(3, max_tokens=3)
    bench.finish(request)
    assert bench.runner.steps == [[(request, 3)], [(request, 1)], [(request, 1)]]


def test_a_sequence_that_stopped_leaves_one_surplus_token_and_no_block():
    bench = Bench(depth=1)
    request = bench.add(3, max_tokens=9, ignore_eos=True, stop_token_ids=list(range(16)))
    bench.finish(request)
    assert bench.runner.steps == [[(request, 3)], [(request, 1)]]
    assert len(request.sequences[0].output.token_ids) == 1
    assert bench.engine.stats().num_free_blocks == 100
    other = bench.add(3)
    bench.finish(other)
    assert len(request.sequences[0].output.token_ids) == 1


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_request_aborted_with_a_token_in_flight_gives_its_blocks_back_at_once(num_steps):
    bench = Bench(depth=1)
    gone, other = bench.add(6, n=2), bench.add(3)
    for _ in range(num_steps):
        bench.step()
    bench.engine.abort(gone)
    assert bench.engine.stats().num_free_blocks == 100 - len(other.sequences[0].table.blocks)
    bench.finish(other)
    assert bench.engine.stats().num_free_blocks == 100
