"""Rounds of a pipeline: R steps on their way, nobody in two of them, and the same answers."""

import numpy as np
import pytest

from llm_numba import SamplingParams
from llm_numba.engine.step import IN_FLIGHT

from .fake import VOCAB_SIZE, Pending, new_engine
from .test_any_line import ALONE, ctrl_c_pressed, struck
from .test_simulation import ENGINES, MAX_MODEL_LEN, Day, check_all_through


class Watched:
    """Stands before a runner and holds its steps to what a pipeline may be given."""

    def __init__(self, runner) -> None:
        self.runner = runner
        self.drawing: list[set] = []  # of each step on its way: who draws
        self.steps: list[list[tuple[object, int]]] = []

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def submit(self, step):
        own = {work.sequence for work in step.works}
        assert not any(own & others for others in self.drawing), "its last token is not known"
        assert all(IN_FLIGHT not in work.token_ids for work in step.works)
        self.drawing.append(set(step.samplers))
        self.steps.append([(work.sequence, len(work.token_ids)) for work in step.works])
        assert len(self.drawing) <= self.runner.num_stages
        return Read(self, self.runner.submit(step))


class Read:
    """A step on its way, which is no longer once it has been read."""

    def __init__(self, watched: Watched, pending: Pending) -> None:
        self.watched, self.pending = watched, pending

    def wait(self):
        self.watched.drawing.pop(0)
        return self.pending.wait()


def new_pipeline(num_stages: int, **options):
    engine = new_engine(depth=num_stages - 1, num_stages=num_stages, **options)
    engine.runner = Watched(engine.runner)
    return engine


@pytest.mark.parametrize("num_stages", [2, 3, 4])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_random_requests_through_a_pipeline_get_their_answers(options, num_stages):
    engine = new_pipeline(num_stages, max_model_len=MAX_MODEL_LEN, **options)
    day = Day(engine, seed=num_stages)
    day.run(200)
    check_all_through(day, 200)


@pytest.mark.parametrize("num_stages", [2, 4])
def test_few_blocks_stop_sequences_whose_token_is_on_its_way(num_stages):
    engine = new_pipeline(num_stages, num_blocks=18, max_model_len=MAX_MODEL_LEN)
    day = Day(engine, 5, ("batch",))
    day.run(200)
    check_all_through(day, 200)
    assert engine.stats().num_preemptions > 0


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("num_stages", [2, 4])
def test_ctrl_c_at_any_line_leaves_the_others_their_answers(num_stages):
    """Steps on their way are given up: the watch on who is in them, too."""
    engine = new_pipeline(num_stages, max_model_len=MAX_MODEL_LEN, **ENGINES["few blocks"])
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
            engine.runner.drawing.clear()
        for request in [request for request in day.live if request.finished]:
            day.check_answer(request)
            del day.live[request]
    assert num_interrupts > 10
    allocator = engine.runner.kv_cache.allocator
    assert allocator.num_free == allocator.num_blocks


@pytest.mark.parametrize(("num_stages", "count"), [(2, 2), (2, 7), (4, 4), (4, 10)])
def test_while_there_are_sequences_for_all_stages_each_round_has_all_of_them(num_stages, count):
    """Groups of nearly equal size take turns, and every stage has one."""
    engine = new_pipeline(num_stages, num_blocks=400, max_num_seqs=16, max_model_len=64)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    for number in range(count):
        engine.add(engine.new_request(None, [number + 1, 2], params))
    while engine.stats().num_running < count:
        engine.step()
    for _ in range(2 * num_stages):
        engine.step()
    begin = len(engine.runner.steps)
    for _ in range(4 * num_stages):
        engine.step()
        assert len(engine.runner.drawing) == num_stages - 1, "one is read when the next is there"
    rounds = engine.runner.steps[begin:]
    assert max(map(len, rounds)) == -(-count // num_stages)
    for first in range(0, len(rounds), num_stages):
        turn = [sequence for step in rounds[first : first + num_stages] for sequence, _ in step]
        assert len(set(turn)) == len(turn) == count


@pytest.mark.parametrize("num_stages", [2, 4])
def test_a_prompt_goes_through_the_stages_in_pieces_that_follow_each_other(num_stages):
    """Nobody waits between two pieces: no token of the one begins the other."""
    engine = new_pipeline(
        num_stages, num_blocks=400, max_num_batched_tokens=20 * num_stages, max_model_len=200
    )
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, VOCAB_SIZE, 130).tolist()
    params = SamplingParams(temperature=0, max_tokens=4)
    engine.add(engine.new_request(None, prompt, params))
    for _ in range(6):
        engine.step()
    lengths = [length for step in engine.runner.steps for _, length in step]
    assert lengths == [20] * 6
    assert len(engine.runner.drawing) == num_stages - 1
