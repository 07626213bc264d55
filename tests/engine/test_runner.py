"""Steps on a device: tokens that go from one to the next unread, padding, graphs, failures."""

import functools
import itertools

import numpy as np
import pytest
from decoding import decode, new_sequences, prefill, step_of, take

import llm_numba.engine.decode_graphs
from llm_numba import LLM, SamplingParams, ops
from llm_numba.engine.decode_graphs import DecodeGraphs
from llm_numba.engine.decode_rows import Bucket
from llm_numba.engine.runner import ModelRunner
from llm_numba.engine.step import NOT_FINITE
from llm_numba.engine.step_writer import StepWriter
from llm_numba.errors import EngineError
from llm_numba.kvcache import PagedKVCache
from llm_numba.runtime import intercept, launch_all, to_host

MAX_SEQS, MAX_LEN, BLOCK = 9, 90, 4
SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.9}
PENALIZED = {"presence_penalty": 1.0, "repetition_penalty": 1.2}


@pytest.fixture(scope="session")
def tiny_model(tiny_dir):
    """The tiny Llama in float32, one a device."""
    load = functools.cache(lambda device: LLM(tiny_dir, device=device, dtype="float32"))
    return lambda device: load(device).engine.runner.model


@pytest.fixture
def new_runner(tiny_model):
    """A runner with a cache of its own."""

    def new(device: str, **options) -> ModelRunner:
        model = tiny_model(device)
        shape = (model.config.num_layers, 150, BLOCK, model.config.num_kv_heads)
        cache = PagedKVCache(*shape, model.config.head_dim, np.dtype(np.float32), device)
        return ModelRunner(model, cache, MAX_SEQS, MAX_LEN, **options)

    return new


def play(runner, seed: int, num_steps: int, *, ahead: bool, fields=({}, SAMPLED)) -> list[list]:
    """Requests that come and go at random, some with two samples; return all answers.

    `ahead` submits each step before the last one's tokens are read, as an engine does on a GPU.
    """
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle(fields)
    live, everyone, unread = [], [], None
    for number in range(num_steps):
        waited_for = unread[1] if unread else []
        works = [decode(each, in_flight=each in waited_for) for each in live]
        if number == 0 or (len(live) <= MAX_SEQS - 2 and rng.random() < 0.4):
            prompt = rng.integers(1, 250, rng.integers(1, 9)).tolist()
            kind = next(kinds)
            n = 2 if kind.get("temperature") else 1
            new = new_sequences(runner.kv_cache, prompt, seed=number, n=n, **kind)
            works.append(prefill(new[0].request))
            live, everyone = live + new, everyone + new
        step = step_of(works)
        submitted = runner.submit(step)
        if unread:
            take(unread[0].wait())
        unread = (submitted, step.samplers)
        if not ahead:
            take(submitted.wait())
            unread = None
        for sequence in [each for each in live if len(live) > 1 and rng.random() < 0.15]:
            live.remove(sequence)
            sequence.table.free()
    if unread:
        take(unread[0].wait())
    return [sequence.output.token_ids for sequence in everyone]


def padded(runner: ModelRunner) -> ModelRunner:
    """In the simulator, run steps that decode as a GPU does, but for the graphs."""
    largest = Bucket(MAX_SEQS, runner.kv_cache.blocks_for(MAX_LEN))
    return by_rows(runner, largest, enforce_eager=True)


def by_rows(runner: ModelRunner, largest: Bucket, *, enforce_eager: bool) -> ModelRunner:
    runner._decode = DecodeGraphs(runner.model, runner.kv_cache, largest, enforce_eager)
    runner._writer = StepWriter(runner.model, runner._decode)
    return runner


# -- Tokens in flight ---------------------------------------------------------------------------


def test_a_device_begins_a_step_with_tokens_that_nobody_has_read(new_runner, device):
    expected = play(new_runner("cpu"), 3, 3, ahead=False)
    assert play(new_runner(device), 3, 3, ahead=True) == expected


def test_penalties_count_a_token_that_nobody_has_read(new_runner, device):
    fields = (PENALIZED, SAMPLED | PENALIZED, {"frequency_penalty": -2.0}, {})
    expected = play(new_runner("cpu"), 6, 4, ahead=False, fields=fields)
    assert play(new_runner(device), 6, 4, ahead=True, fields=fields) == expected


def test_rows_of_padding_change_nothing(new_runner):
    expected = play(new_runner("cpu"), 4, 3, ahead=False)
    assert play(padded(new_runner("sim")), 4, 3, ahead=True) == expected


def test_padding_writes_to_no_block_but_the_null_block(new_runner):
    runner = padded(new_runner("sim"))
    for k_cache, v_cache in runner.kv_cache.layers:
        k_cache[...] = v_cache[...] = 7
    padding = runner._decode._words(Bucket(2, 1))
    runner._decode.queue(Bucket(2, 1), "sample", padding)
    for cache in itertools.chain(*runner.kv_cache.layers):
        assert (to_host(cache)[:-1] == 7).all()
        assert (to_host(cache)[-1, 0] != 7).all()


@pytest.mark.parametrize(
    ("sequences", "kernels"), [(1, ["turning"]), (2, ["rope_write_vectorised", "joined"])]
)
def test_a_short_context_takes_few_launches_and_its_counters_are_zero_again(
    sequences, kernels, tiny_checkpoint
):
    directory = tiny_checkpoint(head_dim=64, num_hidden_layers=1)
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    prompts = [list(range(1, length)) for length in (19, 9)][:sequences]
    written, llms = [], {}
    for device in ("cpu", "sim"):
        llms[device] = LLM(directory, device=device, dtype="float32", num_blocks=16)
        if device == "sim":
            padded(llms[device].engine.runner)
        written.append([o.outputs[0].token_ids for o in llms[device].generate(prompts, params)])
    assert written[0] == written[1]
    graphs, launches = llms["sim"].engine.runner._decode, []
    assert not to_host(graphs._arrived).any()
    with intercept(launches.append):
        graphs._work(Bucket(sequences, 2), "argmax")
    names = [launch.kernel.__name__ for launch in launches]
    others = ("filled_in", "embedding", "gemv", "share_best", "row_argmax")
    assert [name for name in names if not name.startswith(others)] == kernels


def test_a_token_in_flight_may_stand_beside_a_piece_of_a_prompt(new_runner, device):
    """A prompt of seven in three pieces, while another sequence decodes."""

    def tokens(runner: ModelRunner, *, ahead: bool) -> list[list[int]]:
        (first,), (second,) = (
            new_sequences(runner.kv_cache, list(range(1, length))) for length in (4, 8)
        )
        pending = [runner.submit(step_of([prefill(first.request)]))]
        for begin, end in ((0, 3), (3, 6), (6, 7)):
            if not ahead:
                take(pending.pop().wait())
            piece = prefill(second.request, begin, end)
            pending.append(runner.submit(step_of([decode(first, in_flight=ahead), piece])))
            if ahead:
                take(pending.pop(0).wait())
        take(pending.pop().wait())
        return [each.output.token_ids for each in (first, second)]

    assert tokens(new_runner(device), ahead=True) == tokens(new_runner("cpu"), ahead=False)


def test_a_step_of_unfinished_prompts_samples_nothing(new_runner, device):
    runner = new_runner(device)
    (sequence,) = new_sequences(runner.kv_cache, [1, 2, 3])
    assert runner.submit(step_of([prefill(sequence.request, 0, 2)])).wait() == []


@pytest.mark.parametrize(
    ("fields", "chooses"),
    [
        ([{}, {}], "argmax"),
        ([{}, SAMPLED], "sample_tokens"),
        ([{}, {"presence_penalty": 1.0}], "sample_tokens"),
        ([{"logprobs": 1}, {}], "sample_tokens"),
    ],
)
def test_a_prompt_of_greedy_requests_alone_needs_no_sampler(new_runner, device, fields, chooses):
    runner, done = new_runner(device), []
    works = [
        prefill(new_sequences(runner.kv_cache, [1, 2, 3], **each)[0].request) for each in fields
    ]
    with ops.watch(lambda call: (done.append(call.name), call.run())[1]):
        sampled = runner.submit(step_of(works)).wait()
    assert len(sampled) == len(fields)
    assert {"argmax", "sample_tokens"} & set(done) == {chooses}


# -- Graphs -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
def test_graphs_give_the_tokens_of_single_launches(new_runner, seed):
    """Most buckets are met more than once: launched, captured, replayed."""
    fields = ({}, SAMPLED, PENALIZED | SAMPLED, {"logprobs": 2})
    expected = play(new_runner("cpu"), seed, 80, ahead=False, fields=fields)
    for enforce_eager in (True, False):
        runner = new_runner("cuda", enforce_eager=enforce_eager)
        assert play(runner, seed, 80, ahead=False, fields=fields) == expected
        assert bool(runner._decode._graphs) is not enforce_eager


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
def test_graphs_may_run_ahead_of_their_readers(new_runner, seed):
    expected = play(new_runner("cpu"), seed, 80, ahead=False)
    assert play(new_runner("cuda"), seed, 80, ahead=True) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["storyteller", "tiny"])
def test_logits_out_of_a_graph_are_those_of_single_launches_to_the_bit(tiny_dir, model):
    """Five sequences in a bucket of eight; the first run is launched, the others are replayed."""
    llm = LLM(tiny_dir if model == "tiny" else model, device="cuda", max_num_seqs=8)
    prompts = [list(range(1, length)) for length in (3, 9, 21, 2, 40)]

    def bits(enforce_eager: bool) -> list[np.ndarray]:
        old = llm.engine.runner
        runner = ModelRunner(old.model, old.kv_cache, 8, 96, enforce_eager)
        sequences = [new_sequences(runner.kv_cache, prompt)[0] for prompt in prompts]
        take(runner.submit(step_of([prefill(each.request) for each in sequences])).wait())
        rows = []
        for _ in range(4):
            works = [decode(each) for each in sequences]
            bucket, words = runner._decode.lay_out(works, {})
            rows.append(to_host(runner._decode.queue(bucket, "logits", words))[: len(works)])
            for each, row in zip(sequences, rows[-1], strict=True):
                each.output.token_ids.append(int(row.argmax()))
        for each in sequences:
            each.table.free()
        return rows

    for launched, replayed in zip(bits(True), bits(False), strict=True):
        assert launched.tobytes() == replayed.tobytes()


@pytest.mark.gpu
def test_a_warm_runner_captures_nothing_more_and_takes_no_more_memory(new_runner):
    runner, seen = new_runner("cuda"), []
    runner.warm_up(lambda done, total: seen.append((done, total)))
    assert seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    graphs, num_bytes = dict(runner._decode._graphs), runner._decode.arena.num_bytes
    expected = play(new_runner("cpu"), 5, 40, ahead=False)
    assert play(runner, 5, 40, ahead=True) == expected
    assert runner._decode._graphs == graphs
    assert runner._decode.arena.num_bytes == num_bytes


@pytest.mark.gpu
@pytest.mark.parametrize("enforce_eager", [False, True])
def test_an_engine_short_of_everything_answers_as_the_cpu(tiny_dir, enforce_eager):
    """Prompts in pieces, requests that wait for rows, and pre-emption for want of blocks."""
    rng = np.random.default_rng(11)
    prompts = [rng.integers(1, 250, rng.integers(1, 40)).tolist() for _ in range(24)]
    kinds = itertools.cycle(({"temperature": 0.0}, SAMPLED, PENALIZED, {"n": 2, **SAMPLED}))
    params = [
        SamplingParams(seed=seed, max_tokens=int(rng.integers(1, 40)), ignore_eos=True, **kind)
        for seed, kind in zip(range(24), kinds, strict=False)
    ]
    tight = {"max_num_seqs": 6, "max_num_batched_tokens": 11, "num_blocks": 30, "block_size": 4}
    answers = [
        [
            sample.token_ids
            for output in LLM(tiny_dir, dtype="float32", **options).generate(prompts, params)
            for sample in output.outputs
        ]
        for options in (
            {"device": "cpu"},
            {"device": "cuda", "enforce_eager": enforce_eager, **tight},
        )
    ]
    assert answers[0] == answers[1]


class Replay:
    """Stands for a graph where there are none: the same launches, on the same memory."""

    def __init__(self, work, arena) -> None:
        self.launches = []
        with intercept(self.launches.append):
            work()

    def launch(self) -> None:
        launch_all(self.launches)


def test_warming_up_leaves_a_running_request_its_token_in_flight(new_runner, monkeypatch):
    """All buckets, of which there is one, are captured between two steps of the request."""
    monkeypatch.setattr(llm_numba.engine.decode_graphs, "capture", Replay)

    def tokens(runner: ModelRunner, *, in_flight: bool) -> list[int]:
        (sequence,) = new_sequences(runner.kv_cache, [5])
        first = runner.submit(step_of([prefill(sequence.request)]))
        if in_flight:
            runner._decode.warm_up(("argmax",))
        else:
            take(first.wait())
        take(runner.submit(step_of([decode(sequence, in_flight=in_flight)])).wait())
        return sequence.output.token_ids[-1:]

    runner = by_rows(new_runner("sim"), Bucket(1, 1), enforce_eager=False)
    assert tokens(runner, in_flight=True) == tokens(new_runner("cpu"), in_flight=False)


@pytest.mark.gpu
def test_a_stream_goes_on_where_it_was_after_all_graphs_were_captured(tiny_dir):
    llm = LLM(tiny_dir, device="cuda", max_num_seqs=2, max_model_len=40)
    params = SamplingParams(seed=3, max_tokens=12, ignore_eos=True)
    alone = llm.generate([5, 6, 7], params)[0].outputs[0].token_ids
    llm = LLM(tiny_dir, device="cuda", max_num_seqs=2, max_model_len=40)
    stream = llm.stream([5, 6, 7], params)
    tokens = list(next(stream).token_ids)
    llm.warm_up()
    tokens += [token for chunk in stream for token in chunk.token_ids]
    assert tokens == alone


def test_without_graphs_there_is_nothing_to_warm_up(new_runner):
    for runner in (new_runner("cpu"), padded(new_runner("sim"))):
        runner.warm_up(lambda done, total: pytest.fail("something was captured"))


# -- What goes wrong ----------------------------------------------------------------------------


def test_one_row_without_numbers_leaves_the_others_their_tokens(new_runner, device, monkeypatch):
    runner = new_runner(device)
    sequences = [new_sequences(runner.kv_cache, [1, 2, each], logprobs=1)[0] for each in (3, 4, 5)]
    logits = runner.model.logits

    def broken(hidden):
        found = logits(hidden)
        found[1] = np.nan
        return found

    step = step_of([prefill(each.request) for each in sequences])
    expected = [each.token_id for each in runner.submit(step).wait()]
    monkeypatch.setattr(runner.model, "logits", broken)
    tokens = [each.token_id for each in runner.submit(step).wait()]
    assert tokens == [expected[0], NOT_FINITE, expected[2]]


@pytest.mark.parametrize("place", ["forward", "scores"])
def test_a_failed_step_leaves_a_runner_that_goes_on(new_runner, device, monkeypatch, place):
    runner = new_runner(device)
    expected = play(runner, 6, 2, ahead=True)
    (sequence,) = new_sequences(runner.kv_cache, [1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(runner.model, place, lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            runner.submit(step_of([prefill(sequence.request)]))
    sequence.table.free()
    assert play(runner, 6, 2, ahead=True) == expected


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="there is no pool, and CuPy names a want of memory otherwise")
def test_a_step_for_which_memory_is_short_says_so_and_the_next_one_runs(new_runner, monkeypatch):
    import cupy

    runner = new_runner("cuda")
    expected = play(runner, 6, 10, ahead=True)
    (sequence,) = new_sequences(runner.kv_cache, [1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(runner.model, "forward", lambda *_: cupy.empty(2**46, np.uint8))
        with pytest.raises(EngineError, match="not enough memory for a step") as caught:
            runner.submit(step_of([prefill(sequence.request)]))
    assert isinstance(caught.value.__cause__, cupy.cuda.memory.OutOfMemoryError)
    sequence.table.free()
    assert play(runner, 6, 10, ahead=True) == expected


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_a_runner_that_captures_again(new_runner, monkeypatch):
    import cupy

    runner = new_runner("cuda")
    (sequence,) = new_sequences(runner.kv_cache, [1, 2])
    take(runner.submit(step_of([prefill(sequence.request)])).wait())
    forward, calls = runner.model.forward, itertools.count()

    def failing(*args):
        if next(calls) == 1:  # the first call launches, the second is captured
            cupy.cuda.runtime.deviceSynchronize()
        return forward(*args)

    monkeypatch.setattr(runner.model, "forward", failing)
    with pytest.raises(EngineError, match="GPU failed in a step"):
        runner.submit(step_of([decode(sequence)]))
    sequence.table.free()
    expected = play(new_runner("cpu"), 6, 10, ahead=False)
    assert play(runner, 6, 10, ahead=True) == expected
    assert runner._decode._graphs
