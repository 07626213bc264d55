"""The engine's benchmark on a tiny model: that it measures everything, never how fast."""

import json
import math

import pytest
from typer.testing import CliRunner

from llm_numba import LLM
from llm_numba.bench import engine_tables as tables
from llm_numba.bench.budget import Budget
from llm_numba.bench.engine import PARTS, EngineSettings, measure
from llm_numba.bench.engine_fusion import variants
from llm_numba.bench.engine_persistent import persistent_results
from llm_numba.bench.engine_serving import IdleTime, meet_batches, meet_prompts, serve
from llm_numba.bench.engine_steps import DecodePlan, EngineTimer, make_known, widths
from llm_numba.cli.app import app
from llm_numba.errors import CacheError, LLMNumbaError
from llm_numba.models import Execution
from llm_numba.runtime import Graph

MODEL = "random:tiny"
TINY = ("--batches", "1,4", "--contexts", "32,100,9999", "--prompts", "20", "--warmup", "3",
        "--steps", "8", "--requests", "3", "--seconds", "0.1")  # fmt: skip
STEP = ("decode", "transfer")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of one tiny run."""
    path = tmp_path_factory.mktemp("bench") / "engine.json"
    arguments = ["bench", "engine", "-m", MODEL, "--device", "cpu", "--out", str(path), *TINY]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Of the copy" in result.stdout
    assert str(path) in result.stderr
    return json.loads(path.read_text())


@pytest.fixture
def llm():
    return LLM(MODEL, device="cpu", max_num_seqs=4)


def test_everything_is_measured_but_what_does_not_fit(record):
    assert [result["name"] for result in record["results"]] == [
        "memory_speed",
        # The default context is all that the model takes: 4 of the 8 steps lie behind this one.
        *(f"{each}/batch={batch}/context=506" for batch in (1, 4) for each in STEP),
        "decode/batch=1/context=32", "transfer/batch=1/context=32",
        "decode/batch=1/context=100", "transfer/batch=1/context=100",
        "first_token/tokens=20",
        "memory/weights", "memory/KV cache",
        *(f"fusion/batch=1/{variant.name}" for variant in variants()),
        "serving/all", "serving/answers", "serving/waste",
    ]  # fmt: skip
    assert record["left_out"] == {"decode/batch=1/context=9999": "the model's context is shorter"}


def test_every_figure_is_ordered_and_finite(record):
    for result in record["results"]:
        assert 0 <= result["p10"] <= result["median"] <= result["p90"] < math.inf
    assert record["settings"]["model"] == MODEL
    assert record["settings"]["batches"] == [1, 4]


def test_a_decode_point_has_its_mean_tail_and_bytes(record):
    found = {result["name"]: result for result in record["results"]}
    point = found["decode/batch=1/context=100"]
    shape = point["shape"]
    assert (point["unit"], point["n"], point["warmup"]) == ("ms", 8, 3)
    assert point["median"] <= shape["p99_ms"]
    assert shape["tokens_per_second"] == pytest.approx(1e3 / shape["mean_ms"])
    speed = found["memory_speed"]["median"] * 1e9
    moved = shape["weight_bytes"] + shape["kv_bytes"]
    share = found["transfer/batch=1/context=100"]["median"]
    assert share == pytest.approx(100 * moved / (1e-3 * shape["mean_ms"]) / speed)


def test_a_serving_run_counts_prompts_and_answers(record):
    found = {result["name"]: result for result in record["results"]}
    shape = found["serving/all"]["shape"]
    tokens = shape["prompt_tokens"] + shape["answer_tokens"]
    assert found["serving/all"]["median"] == pytest.approx(tokens / shape["seconds"])
    assert 3 * 100 <= shape["prompt_tokens"] <= 3 * 256
    assert 0 < found["serving/waste"]["median"] < 16 / 100 * 100


@pytest.mark.parametrize("context", [4, 5, 33, 128, 512, 32768])
@pytest.mark.parametrize(("warmup", "steps"), [(100, 500), (0, 1), (7, 30)])
def test_counted_steps_lie_around_the_context(context, warmup, steps):
    plan = DecodePlan.around(context, warmup, steps)
    assert plan.prompt_tokens >= 1
    assert plan.warmup <= warmup
    assert 1 <= plan.steps <= steps
    # The prompt, the token that comes with it, the warm-up, and half of what counts.
    assert plan.prompt_tokens + 1 + plan.warmup + plan.steps // 2 == plan.context == context


def test_near_the_longest_sequence_there_are_fewer_steps():
    plan = DecodePlan.around(500, 100, 500, longest=512)
    assert plan.steps == 20
    assert plan.final_tokens <= 512


@pytest.mark.parametrize("context", [8190, 8191, 8192])
def test_a_context_of_all_that_a_model_takes_gives_way_until_some_steps_fit(context):
    plan = DecodePlan.around(context, 100, 500, longest=8192)
    assert (plan.context, plan.warmup, plan.steps) == (8180, 100, 20)
    assert plan.final_tokens <= 8192
    assert DecodePlan.around(context, 0, 6, longest=8192).context == 8187
    assert DecodePlan.around(8193, 100, 500, longest=8192).context == 8193


@pytest.mark.parametrize("longest", [8, 12, 20, 30, 512])
def test_a_short_model_has_room_for_a_step_around_any_context(longest):
    for context in range(4, longest + 1):
        plan = DecodePlan.around(context, 100, 500, longest)
        assert plan.prompt_tokens >= 1
        assert plan.steps >= 1
        assert plan.final_tokens <= longest


def test_steps_give_each_sequence_a_token_and_leave_nothing_behind(llm):
    timer = EngineTimer(llm)
    before = llm.engine.stats()
    plan = DecodePlan.around(40, 2, 5)
    assert widths(plan, 16) == []
    times = timer.decode(3, plan)
    assert (len(times.seconds), times.warmup) == (5, 2)
    after = llm.engine.stats()
    # One step with the prompts' last tokens, the warm-up, and what counts.
    assert after.num_steps - before.num_steps == 1 + 2 + 5
    assert after.num_running == after.num_waiting == 0
    assert after.num_free_blocks == before.num_free_blocks


def test_each_width_of_block_tables_is_met_before_the_steps_that_count():
    plan = DecodePlan.around(512, 100, 500)
    assert (plan.prompt_tokens, plan.final_tokens) == (161, 763)
    # Two more steps from these fill 16, 32, and part of 64 blocks.
    assert widths(plan, 16) == [254, 510, 759]


def test_a_prompt_that_is_known_is_not_computed(llm):
    timer = EngineTimer(llm)
    prompt = timer.prompt(40)
    make_known(timer.kv_cache, [prompt])
    with timer.running([prompt], [llm.default_sampling_params(max_tokens=1)]) as (request,):
        llm.engine.step()
    assert request.metrics.num_cached_tokens == 32


def test_what_does_not_fit_together_is_refused(llm):
    timer = EngineTimer(llm)
    plan = DecodePlan.around(500, 0, 5)
    room = timer.kv_cache.allocator.num_blocks * timer.kv_cache.block_size
    assert timer.obstacle(1, plan) is None
    with pytest.raises(CacheError, match="it does not fit into the KV cache"):
        timer.decode(room // 400, plan)
    with pytest.raises(CacheError, match="the model's context is shorter"):
        timer.decode(1, DecodePlan.around(600, 0, 5))


def test_the_clock_is_asked_around_each_step(llm):
    ticks = iter(range(1000))
    timer = EngineTimer(llm, clock=lambda: float(next(ticks)))
    assert timer.decode(1, DecodePlan.around(20, 1, 6)).seconds == [1.0] * 6


def test_slow_steps_end_when_their_time_is_up_but_not_before_the_twentieth(llm):
    ticks = iter(range(1000))
    timer = EngineTimer(llm, clock=lambda: float(next(ticks)))
    plan = DecodePlan.around(200, 60, 100)
    times = timer.decode(1, plan, budget_seconds=50.0)
    assert (len(times.seconds), times.warmup) == (50, 25)
    times = timer.decode(1, plan, budget_seconds=5.0)
    assert (len(times.seconds), times.warmup) == (20, 20)


# -- The GPU's idle time -------------------------------------------------------------------------


class Machine:
    """A GPU and a host, each with a clock of its own, and a runner between them."""

    def __init__(self, preparing, running, eager=False):
        self.host = self.gpu = 0.0
        self.preparing, self.running, self.eager = preparing, running, eager

    def record(self):
        self.gpu = max(self.gpu, self.host)
        return self.gpu

    def seconds(self, begin, end):
        return end - begin

    def synchronize(self):
        pass

    def submit(self, step):
        self.host += self.preparing
        if self.eager:
            self.queue()
        else:
            Graph([None], [], None).launch(self)

    def queue(self):
        self.gpu = max(self.gpu, self.host) + self.running


def idle_share(monkeypatch, machine, waiting):
    monkeypatch.setattr(Graph, "launch", lambda graph, stream: stream.queue())
    idle = IdleTime(machine, clock=lambda: machine.host)
    with idle.watching(machine):
        for _ in range(3):
            machine.submit(None)
            machine.host = max(machine.host, machine.gpu - waiting)
    assert "submit" not in vars(machine)
    return idle.share


@pytest.mark.parametrize(
    ("preparing", "running", "waiting", "share"),
    [(2, 3, 0, 4 / 13), (2, 3, 2, 0), (1, 3, 3, 0), (5, 3, 3, 4 / 13)],
)
def test_idle_is_what_lies_between_the_end_of_a_graph_and_the_next(
    monkeypatch, preparing, running, waiting, share
):
    """Waiting for the step before: none is prepared while one runs, or that of so much earlier."""
    assert idle_share(monkeypatch, Machine(preparing, running), waiting) == pytest.approx(share)


def test_a_step_that_is_launched_kernel_by_kernel_counts_if_that_takes_as_long(monkeypatch):
    assert idle_share(monkeypatch, Machine(1, 3, eager=True), 3) == 0
    assert idle_share(monkeypatch, Machine(3, 0.5, eager=True), 3) == 1


# -- Many requests, fusion, the persistent kernel ------------------------------------------------


def test_each_variant_switches_one_thing_more():
    first, second, *rest = variants()
    assert (first.enforce_eager, second.enforce_eager) == (True, False)
    assert first.execution == second.execution
    before = second.execution
    for variant in rest:
        changed = {k for k, v in vars(variant.execution).items() if v != getattr(before, k)}
        assert changed == {
            f"fuse_{variant.name}" if variant is not rest[-1] else "overlap_launches"
        }
        before = variant.execution
    assert before == Execution(overlap_launches=True)


def test_before_a_run_its_kernels_are_there_and_a_step_was_full(monkeypatch):
    llm = LLM(MODEL, device="cpu", max_num_seqs=4, max_num_batched_tokens=96)
    submit, sizes = llm.engine.runner.submit, []

    def note(step):
        sizes.append(step.num_tokens)
        return submit(step)

    monkeypatch.setattr(llm.engine.runner, "submit", note)
    monkeypatch.setattr(llm.engine.runner, "compile_prompts", lambda: sizes.append("all"))
    meet_prompts(EngineTimer(llm), 40)
    assert sizes == ["all", 96, 64]


def test_what_the_engine_hands_out_is_taken_at_each_step(llm, monkeypatch):
    step, waiting = llm.engine.step, []

    def note():
        step()
        waiting.append(max((len(request.chunks) for request in llm.engine._live), default=0))

    monkeypatch.setattr(llm.engine, "step", note)
    assert len(list(serve(EngineTimer(llm), 3, (4, 30), 0, 2, lambda: True))) == 3
    assert len(waiting) > 10
    assert max(waiting) == 1


def test_every_batch_size_is_met_before_many_requests(llm, monkeypatch):
    sizes = []
    step = llm.engine.step

    def note():
        sizes.append(len(llm.engine.running))
        step()

    monkeypatch.setattr(llm.engine, "step", note)
    meet_batches(EngineTimer(llm), 4, 64)
    assert sizes == [0, 3, 2, 1]  # those that are left over from the step before


def test_the_persistent_kernel_is_compared_at_each_context_that_fits():
    def load(persistent):
        made.append(persistent)
        return LLM(MODEL, device="cpu", max_num_seqs=1)

    made: list[bool] = []
    budget = Budget(600, PARTS)
    plan = {"warmup": 2, "steps": 4, "seconds": 0.1, "seed": 0, "budget": budget}
    found = list(persistent_results(load, (32, 9999), **plan))
    assert made == [False, True]
    assert [each.name for each in found] == [
        "persistent/context=32/graph", "persistent/context=16/graph",
        "persistent/context=32/kernel", "persistent/context=16/kernel",
    ]  # fmt: skip
    assert all(each.statistic.unit == "ms" and each.statistic.n == 4 for each in found)
    assert budget.left_out == {
        f"persistent/context=9999/{way}": "the model's context is shorter"
        for way in ("graph", "kernel")
    }


@pytest.mark.gpu
def test_a_record_says_why_the_persistent_kernel_did_not_run():
    budget = Budget(600, PARTS)
    settings = EngineSettings("random:gpt2", contexts=(32,), parts=("persistent",), steps=5)
    names = [each.name for each in measure(settings, budget)]
    assert "persistent/context=32/graph" in names
    assert "not of the Llama family" in budget.left_out["persistent"]


# -- Mistakes ------------------------------------------------------------------------------------


def test_an_unknown_part_is_refused():
    with pytest.raises(LLMNumbaError, match="There is no part 'dance'"):
        EngineSettings(MODEL, "cpu", parts=("decode", "dance"))


def test_a_context_without_room_for_a_prompt_is_refused():
    with pytest.raises(LLMNumbaError, match="A context of 3 has no room"):
        EngineSettings(MODEL, "cpu", contexts=(512, 3))


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [(["--device", "cuda"], "device='cuda' cannot be used"),
     (["--device", "cpu", "-m", "random:nothing"], "There is no shape 'nothing'"),
     (["--device", "cpu", "-m", MODEL, "--batches", "1,x"], "--batches 1,x is no list"),
     (["--device", "cpu", "-m", MODEL, "--only", "dance"], "There is no part 'dance'")],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(arguments, cause, tmp_path):
    out = str(tmp_path / "engine.json")
    result = CliRunner().invoke(app, ["bench", "engine", *arguments, "--out", out])
    assert result.exit_code == 2
    assert cause in result.stderr
    assert "Fix:" in result.stderr
    assert not (tmp_path / "engine.json").exists()


def test_a_request_that_fails_ends_the_measurement_with_its_error(llm, monkeypatch):
    step = llm.engine.step

    def fail():
        step()
        for sequence in llm.engine.running:
            sequence.request.metrics.num_generated_tokens = 0
            sequence.request.error = CacheError("It broke.", "Mend it.")

    monkeypatch.setattr(llm.engine, "step", fail)
    with pytest.raises(CacheError, match="It broke"):
        EngineTimer(llm).decode(1, DecodePlan.around(40, 1, 5))


def test_two_records_are_shown_side_by_side_and_what_one_lacks_is_said():
    def decode(batch, median):
        shape = {"batch": batch, "context": 512}
        return {"what": f"batch {batch}", "median": median, "shape": shape}

    prompt = {"what": "prompt", "median": 600.0, "shape": {"tokens": 2048}}
    before = {"first_token/tokens=2048": prompt, "decode/batch=8/context=512": decode(8, 6.0)}
    after = {name: {**each, "median": each["median"] / 4} for name, each in before.items()}
    after |= {"decode/batch=1/context=512": decode(1, 5.0), "memory/off": prompt}
    assert tables.compared(before, after).rows == [
        ["batch 1", "-", "5", ""],
        ["batch 8", "6", "1.5", "4.00"],
        ["prompt", "600", "150", "4.00"],
    ]


def test_decode_points_stand_by_context_and_batch_however_they_were_measured():
    def point(batch, context):
        shape = {"batch": batch, "context": context, "mean_ms": 2.0, "p99_ms": 3.0}
        shape["tokens_per_second"] = 500.0 * batch
        return {"shape": shape, "median": 2.0, "unit": "ms", "n": 9}

    measured = [(1, 512), (8, 512), (1, 8192), (2, 512)]
    results = {f"decode/batch={b}/context={c}": point(b, c) for b, c in measured}
    results |= {
        name.replace("decode", "transfer"): {"median": 50.0, "unit": "%"} for name in [*results]
    }
    order = [row[0] for row in tables.decode(results).rows]
    assert order == ["1 x 512", "2 x 512", "8 x 512", "1 x 8,192"]
