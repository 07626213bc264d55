"""Times of a plan: by hand, against records, and what must hold whatever the figures are."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_numba.errors import EngineError, ParallelError
from llm_numba.planner import Rounds, check, cut, find_gpu, make_plan, packaged_table
from llm_numba.planner.check import GOAL, OLDER, compare, is_comparable
from llm_numba.planner.collectives import Exchange, LinkTable, all_reduce, send
from llm_numba.planner.gpus import LINKS
from llm_numba.planner.presets import PRESETS
from llm_numba.planner.steps import Load, StageTime, layer_weights, stage_time
from llm_numba.planner.sweep import Point, assumptions, frontier, splits, sweep

from .conftest import BFLOAT16, shape

RESULTS = Path(__file__).parents[2] / "docs" / "results"
# All that two ranks exchange.
MEASURED = LinkTable(
    "comm_x.json",
    {(each, 2): ((64.0, 1e-6), (1e9, 1e-2)) for each in ("all_reduce", "all_gather", "send")},
)


# -- One GPU -------------------------------------------------------------------------------------


def test_one_token_of_8b_on_one_gpu_by_hand(asked, table):
    plan = make_plan(asked(batch=1, context=512), table)
    one = table.product(1)
    E, F = 4096, 14336
    weights = (6144 * E, E * E, 2 * F * E, F * E)
    assert layer_weights(shape("llama-3-8b")) == weights
    layer = (
        4 * one.constant
        + one.slope * sum(weights)
        + table.turning_attention.seconds(512 * 2 * 8 * 128 * 2)
    )
    ends = (
        table.short["fill_in_tokens"].seconds(4)
        + table.short["embedding"].seconds(2 * E * 2)
        + one.seconds(128256 * E)
        + table.short["argmax"].seconds(4 * 128256)
    )
    assert plan.drained.seconds == pytest.approx(32 * layer + ends)
    assert plan.drained.seconds == plan.interleaved.seconds
    assert plan.drained.idle == 0
    assert plan.tokens_per_second(plan.drained) == pytest.approx(1 / plan.drained.seconds)


def test_no_token_is_faster_than_the_weights_are_read(asked, table):
    for name in ("llama-3.2-1b", "llama-3-8b", "gpt2"):
        plan = make_plan(asked(name, batch=1, context=1), table)
        # The table's best kernels read 4 % faster than a copy reads and writes.
        assert plan.drained.seconds > 0.95 * plan.weight_floor_seconds


# -- Against measurements ------------------------------------------------------------------------


def engine_records():
    for path in sorted(RESULTS.glob("engine_*.json")):
        record = json.loads(path.read_text())
        if is_comparable(record):
            yield pytest.param(record, path.name, id=path.stem)


# Plans that miss: attention of so many sequences was timed neither alone nor in a profile, and
# products of 256 rows lie between those that were.
UNTIMED = {
    ("random:llama-3-8b", "decode/batch=128/context=512"): 0.21,
    ("random:llama-3-8b", "decode/batch=256/context=512"): 0.37,
}


@pytest.mark.parametrize(("record", "file"), list(engine_records()))
def test_the_plan_is_what_engines_measured(record, file, table):
    found = compare(record, file, table)
    names = {each["name"] for each in record["results"]}
    wanted = {
        name for name in names if name.startswith(("decode/", "first_token/", "memory/taken"))
    }
    assert {each.name for each in found} == wanted
    for each in found:
        # What misses is a kernel that is no more, or a host that a plan does not count.
        excused = each.reason == OLDER or "the host took longer" in each.reason
        key = record["settings"]["model"], each.name
        assert abs(each.off) <= UNTIMED.get(key, GOAL) or excused, each
        assert key not in UNTIMED or not each.holds, f"{each} needs no exception any more"
    assert sum(each.holds for each in found) > len(found) / 2


@pytest.mark.parametrize("same", [True, False])
def test_a_record_is_older_if_kernels_of_another_commit_were_timed_later(table, same):
    path = next(RESULTS.glob("engine_*_llama-3-8b.json"))
    record = json.loads(path.read_text())
    commit = record["environment"]["git"]["commit"] if same else "another"
    later = replace(table, sources=({"file": "", "date": "9999", "commit": commit},))
    reasons = {each.reason for each in compare(record, path.name, later) if not each.holds}
    assert (OLDER in reasons) != same


def ranks_record(tp, pp, path, **settings):
    """A record of several H200s, of a step and a prompt."""
    split = {"tp": tp, "pp": pp, "path": path}
    results = [
        {"name": f"decode/tp={tp}/pp={pp}/{path}/batch=1", "what": "a step", "unit": "ms",
         "shape": split | {"batch": 1, "context": 512}, "median": 3.0},
        {"name": f"prefill/tp={tp}/pp={pp}/{path}/tokens=8191", "what": "a prompt", "unit": "ms",
         "shape": split | {"tokens": 8191}, "median": 3000.0},
        {"name": f"load/tp={tp}/pp={pp}/{path}/requests=32", "what": "a load", "unit": "tokens/s",
         "shape": split | {"requests": 32}, "median": 3000.0},
    ]  # fmt: skip
    return {
        "benchmark": "ranks",
        "date": "2030-01-31T12:00:00+00:00",
        "environment": {"gpus": [{"name": "NVIDIA H200"}] * tp * pp},
        "settings": {"model": "random:llama-3-8b", "device": "cuda", "tp": tp, "pp": pp,
                     "warmup": 50, "steps": 200} | settings,
        "results": results,
    }  # fmt: skip


def test_steps_and_prompts_of_several_ranks_are_planned_on_their_gpu(asked, table):
    one, two = (ranks_record(*split) for split in ((1, 1, "alone"), (2, 1, "peer+nccl")))
    assert is_comparable(one)
    assert is_comparable(two)
    step, prompt = compare(two, "ranks_x.json", table)
    # 512 tokens, and those that are decoded before the median one.
    question = asked("llama-3-8b", "h200", tp=2, context=512 + 50 + 100)
    assert step.planned == pytest.approx(1e3 * make_plan(question, table).drained.seconds)
    question = asked("llama-3-8b", "h200", tp=2, context=8192, prompt=8191,
                     max_num_batched_tokens=8191)  # fmt: skip
    assert prompt.planned == pytest.approx(1e3 * make_plan(question, table).prompt.seconds)
    assert step.planned < compare(one, "ranks_y.json", table)[0].planned


def test_stages_get_a_prompt_in_pieces_also_where_it_is_compared(asked, table):
    _, prompt = compare(ranks_record(1, 2, "nccl"), "ranks_x.json", table)
    question = asked("llama-3-8b", "h200", pp=2, context=8192, prompt=8191,
                     max_num_batched_tokens=8191 // 2)  # fmt: skip
    assert prompt.planned == pytest.approx(1e3 * make_plan(question, table).prompt.seconds)


@pytest.mark.parametrize(
    "record",
    [
        ranks_record(2, 1, "mpi-staged"),
        ranks_record(2, 1, "peer", enforce_eager=True),
        ranks_record(2, 1, "peer", switches=["overlap_sums"]),
        ranks_record(2, 1, "peer", device="cpu"),
        ranks_record(2, 1, "peer", model="storyteller"),
        ranks_record(2, 1, "peer") | {"environment": {"gpus": [{"name": "NVIDIA Other"}]}},
        ranks_record(2, 1, "peer") | {"benchmark": "comm"},
    ],
)
def test_what_a_plan_does_not_know_is_not_compared(record):
    assert not is_comparable(record)


def test_a_miss_says_why(table):
    path = next(RESULTS.glob("engine_*_llama-3-8b.json"))
    record = json.loads(path.read_text())
    slower = [
        each | {"median": 3 * each["median"]}
        for each in record["results"]
        if each["name"] in ("decode/batch=1/context=512", "first_token/tokens=512", "memory/taken")
    ]
    new = record | {"date": "2100-01-31T12:00:00+00:00", "results": slower}
    decode, first, memory = compare(new, path.name, table)
    assert not decode.holds
    assert "memory" in memory.reason
    assert "in the table" in decode.reason
    assert "host" in first.reason
    old = new | {"date": "2000-01-31T12:00:00+00:00"}
    decode, first, memory = compare(old, path.name, table)
    assert decode.reason == first.reason == OLDER
    assert "memory" in memory.reason
    faster = [each | {"median": each["median"] / 9} for each in slower]
    decode, *_ = compare(old | {"results": faster}, path.name, table)
    assert "in the table" in decode.reason


@pytest.mark.parametrize(
    ("links", "why"), [({}, "links were not measured"), ({"nvlink-4": MEASURED}, "equally fast")]
)
def test_an_engine_on_several_gpus_is_planned_on_as_many(table, monkeypatch, links, why):
    monkeypatch.setattr(check, "packaged_links", lambda: links)
    path = next(RESULTS.glob("engine_*_llama-3-8b.json"))
    record = json.loads(path.read_text())
    result = next(each for each in record["results"] if each["name"].startswith("decode/"))
    several = record | {
        "settings": record["settings"] | {"tp": 2, "pp": 2},
        "results": [result, result | {"median": 10 * result["median"]}],
    }
    one, slow = compare(several, path.name, table)
    (alone,) = compare(record | {"results": [result]}, path.name, table)
    assert one.planned < alone.planned
    assert why in slow.reason


# -- Many GPUs -----------------------------------------------------------------------------------


def test_tensor_ranks_read_less_and_talk(asked, table):
    one, two = (make_plan(asked(tp=tp, context=512), table, {}) for tp in (1, 2))
    assert two.drained.seconds < one.drained.seconds
    # Two all-reduces a layer of one row, one of the embedding, and who has the best token.
    link = LINKS["nvlink-4"]
    messages = 65 * all_reduce(4096 * 2, 2, link) + (16 / 2 / link.bytes_per_second + link.latency)
    assert two.drained.slowest.exchanges == pytest.approx(messages)
    assert one.drained.slowest.exchanges == 0


def test_rounds_by_hand():
    stage = StageTime(1.0, 2.0, 3.0, 4.0)
    drained = Rounds(False, 3, (stage,) * 4, 0.5)
    assert drained.steps == 6
    assert drained.seconds == 6 * 10.5
    assert drained.idle == pytest.approx((4 - 1) / (3 + 4 - 1))
    interleaved = replace(drained, interleaved=True)
    assert interleaved.seconds == 4 * 10.5
    assert interleaved.idle == pytest.approx(1 / 4)
    assert replace(interleaved, micro_batches=8).idle == 0


def test_stages_send_the_residual_stream(asked, table):
    plan = make_plan(asked(pp=2, batch=8, micro_batches=4), table, {})
    assert plan.drained.hop == send(2 * 4096 * 2, LINKS["nvlink-4"])
    assert plan.drained.micro_batches == plan.interleaved.micro_batches == 4
    assert plan.drained.seconds == pytest.approx(
        5 * (max(each.seconds for each in plan.drained.stages) + plan.drained.hop)
    )


def test_the_number_of_micro_batches_is_the_fastest(asked, table):
    question = asked(pp=4, batch=48, context=1024)
    plan = make_plan(question, table)
    for M in range(1, 49):
        other = make_plan(replace(question, micro_batches=M), table)
        assert plan.drained.seconds <= other.drained.seconds * (1 + 1e-12)
        assert plan.interleaved.seconds <= other.interleaved.seconds * (1 + 1e-12)


def test_groups_that_leave_the_host_go_over_the_slower_link(asked, table):
    def links(tp, pp):
        plan = make_plan(asked("llama-3-70b", tp=tp, pp=pp), table)
        return plan.tensor_link.name, plan.pipeline_link.name

    assert links(4, 2) == ("nvlink-4", "nvlink-4")
    assert links(8, 2) == ("nvlink-4", "infiniband-ndr")
    assert links(16, 1)[0] == "infiniband-ndr"


def test_a_long_prompt_comes_in_pieces(asked, table):
    question = asked("llama-3-70b", tp=8, pp=2, context=8192, prompt=8192)
    plan = make_plan(question, table)
    assert plan.prompt.micro_batches == 4
    assert plan.prompt.steps == 5
    shorter = make_plan(replace(question, prompt=2048), table)
    assert shorter.prompt.steps == 2
    assert plan.prompt.seconds > shorter.prompt.seconds


def test_measured_links_are_no_assumption(asked, table):
    times = {("all_reduce", 2): ((8192.0, 1e-3),), ("all_gather", 2): ((16.0, 1e-3),)}
    links = {"nvlink-4": LinkTable("comm_x.json", times)}
    plan = make_plan(asked(tp=2), table, links)
    assert plan.drained.slowest.exchanges == pytest.approx(66e-3)
    assert plan.tensor_link.source == "comm_x.json"
    assert not any("nvlink" in each for each in plan.assumptions)
    # With four ranks there is still the formula, and it says so.
    four = make_plan(asked(tp=4), table, links)
    assert any("nvlink-4 was not measured" in each for each in four.assumptions)


def test_where_two_ranks_were_measured_formulas_take_what_they_found(asked, table):
    # n / b + a with 1 us and 100 GB/s; and a message of 3 us, whatever it is long.
    times = {
        ("all_reduce", 2): ((64.0, 1e-6), (1e9, 0.010001)),
        ("send", 2): ((64.0, 3e-6), (1e9, 3e-6)),
    }
    measured = LinkTable("comm_x.json", times)
    plan = make_plan(asked(tp=4, pp=2), table, {"nvlink-4": measured})
    link = plan.tensor_link
    assert (link.bytes_per_second, link.latency) == pytest.approx((1e11, 1e-6), rel=1e-6)
    (said,) = (each for each in plan.assumptions if "nvlink-4" in each)
    assert said.startswith("nvlink-4 was measured with two ranks (comm_x.json): 100 GB/s, 1 us")
    assert plan.drained.hop == pytest.approx(3e-6)


def test_what_was_not_measured_is_said(asked, table):
    assert make_plan(asked(batch=1), table).assumptions == []
    found = " ".join(make_plan(asked("llama-3-70b", "h200", tp=8, pp=2), table, {}).assumptions)
    for word in ("NVIDIA H200 data sheet", "nvlink-4", "infiniband-ndr", "round figure"):
        assert word in found


# -- Whatever the figures ------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 64),
    context=st.integers(1, 2048),
    memory=st.floats(1.0, 8.0),
    arithmetic=st.floats(1.0, 8.0),
    name=st.sampled_from(["h200", "a100", "rtx-4090"]),
)
def test_a_faster_gpu_is_never_slower(tp, pp, batch, context, memory, arithmetic, name):
    table = packaged_table()
    gpu = replace(find_gpu(name), memory_bytes=10**12)
    faster = replace(
        gpu, bytes_per_second=memory * gpu.bytes_per_second, flops=arithmetic * gpu.flops
    )
    slow, fast = (
        make_plan(question(each, tp, pp, batch, context), table) for each in (gpu, faster)
    )
    for rounds in ("drained", "interleaved", "prompt"):
        assert getattr(fast, rounds).seconds <= getattr(slow, rounds).seconds * (1 + 1e-12)


@settings(max_examples=60)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 63),
    context=st.integers(1, 2047),
)
def test_more_work_is_never_faster_nor_smaller(tp, pp, batch, context):
    table = packaged_table()
    gpu = replace(find_gpu("h100"), memory_bytes=10**12)
    less = make_plan(question(gpu, tp, pp, batch, context), table)
    for more in ((batch + 1, context), (batch, context + 1)):
        plan = make_plan(question(gpu, tp, pp, *more), table)
        assert plan.interleaved.seconds >= less.interleaved.seconds * (1 - 1e-12)
        assert plan.fullest.taken >= less.fullest.taken
    assert less.interleaved.seconds <= less.drained.seconds


def question(gpu, tp, pp, batch, context):
    from llm_numba.planner import Question

    config = shape("llama-3-8b")
    return Question(config, BFLOAT16, gpu, tp=tp, pp=pp, batch=batch, context=context)


# -- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"batch": 0}, ParallelError, "batch=0"),
        ({"context": 0, "prompt": 1}, ParallelError, "context=0"),
        ({"context": 9000}, ParallelError, "8192"),
        ({"context": 100, "prompt": 200}, ParallelError, "prompt of 200"),
        ({"batch": 4, "micro_batches": 5}, ParallelError, "5 micro-batches"),
        ({"max_num_batched_tokens": 0}, ParallelError, "max_num_batched_tokens=0"),
        ({"gpu_memory_gb": 10.0}, EngineError, "may take 10.0 GiB"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, table, fields, error, words):
    with pytest.raises(error, match=words):
        make_plan(asked(**fields), table)


# -- Presets and sweeps --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_fits(asked, table, name):
    plan = make_plan(asked(**PRESETS[name].asked), table)
    assert plan.fullest.fits
    assert plan.split.num_gpus == {"7": 8 * plan.question.pp, "1": 4}[name[0]]


def test_a_sweep_holds_what_single_plans_say(asked, table):
    base = asked("llama-3.2-1b", context=256)
    points = list(sweep(base, table, batches=(1, 16), most_gpus=4))
    # 32 heads, 8 KV heads, 16 layers: all of the six splits up to 4 GPUs, at both batches.
    assert len(points) == 12
    point = next(each for each in points if (each.tp, each.pp, each.batch) == (2, 2, 16))
    plan = make_plan(replace(base, tp=2, pp=2, batch=16), table)
    assert point.per_user == pytest.approx(1 / plan.interleaved.seconds)
    assert point.per_gpu == pytest.approx(16 / 4 / plan.interleaved.seconds)
    assert point.memory_bytes == plan.fullest.taken
    four = next(each for each in points if each.tp == 4)
    assert any("nvlink-4" in each for each in assumptions(base, table, [four]))


def test_a_sweep_leaves_out_what_does_not_fit(asked, table):
    points = list(sweep(asked("llama-3-70b", context=128), table, batches=(1,), most_gpus=4))
    assert {each.num_gpus for each in points} == {2, 4}


def test_splits_are_no_more_stages_than_layers():
    found = set(splits(shape("gpt2"), 64))
    assert max(pp for _, pp in found) == 8
    assert all(tp * pp <= 64 for tp, pp in found)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1))
def test_nothing_beats_the_frontier_at_both_rates(rates):
    points = [Point(1, 1, 1, float(user), float(gpu), 0) for user, gpu in rates]
    best = frontier(points)
    for each in best:
        assert not any(p.per_user > each.per_user and p.per_gpu > each.per_gpu for p in points)
    for each in points:
        assert any(p.per_user >= each.per_user and p.per_gpu >= each.per_gpu for p in best)


def test_a_step_of_a_window_sees_no_further(asked, table):
    config = shape("llama-3-8b")
    narrow = replace(config, windows=(256,) * config.num_layers)
    base = asked(batch=4, context=2048)
    wide = make_plan(base, table)
    plan = make_plan(replace(base, config=narrow), table)
    short = make_plan(replace(base, context=256), table)
    assert plan.drained.slowest.attention == pytest.approx(short.drained.slowest.attention)
    assert plan.drained.slowest.attention < wide.drained.slowest.attention
    assert plan.prompt.slowest.attention < wide.prompt.slowest.attention


@pytest.mark.parametrize(
    ("window", "new_tokens", "context", "pairs"),
    [
        (None, 4, 4, 1 + 2 + 3 + 4),
        (None, 3, 10, 8 + 9 + 10),
        (2, 4, 4, 1 + 2 + 2 + 2),
        (9, 3, 10, 8 + 9 + 9),
        (10, 3, 10, 8 + 9 + 10),
    ],
)
def test_attention_of_a_prompt_counts_pairs_of_tokens(table, window, new_tokens, context, pairs):
    config = replace(shape("llama-3-8b"), windows=(window,) * 32)
    rank = cut(config).rank(0, 0)
    found = stage_time(
        rank, Load(2, new_tokens, context), table, Exchange(1, LINKS["nvlink-4"])
    ).attention
    flops = 4 * 32 * 128 * 2 * pairs
    turned = 2 * 2 * new_tokens * (32 + 16) * 128 * 2
    turning = table.short["rope_and_write_kv"].seconds(turned)
    assert found == pytest.approx(32 * (turning + table.prompt_attention.seconds(flops)))


@pytest.mark.parametrize(
    ("model", "batch", "context", "law"),
    [
        ("llama-3-8b", 1, 2048, "turning_attention"),
        ("llama-3-8b", 1, 2049, "decode_attention"),
        ("llama-3-8b", 8, 512, "joined_attention"),
        ("llama-3-8b", 32, 512, "decode_attention"),  # short, but of many
        ("qwen3-0.6b", 1, 512, "joined_attention"),  # queries and keys are normalised first
    ],
)
def test_decoding_attention_takes_the_kernel_that_the_engine_takes(
    table, model, batch, context, law
):
    config = replace(shape(model), num_layers=1, windows=(None,))
    rank, one = cut(config).rank(0, 0), Exchange(1, LINKS["nvlink-4"])
    found = stage_time(rank, Load(batch, 1, context), table, one).attention
    item = 2 * config.head_dim
    seconds = getattr(table, law).seconds(2 * batch * context * config.num_kv_heads * item)
    if law != "turning_attention":
        heads = config.num_heads + 2 * config.num_kv_heads
        seconds += table.short["rope_and_write_kv"].seconds(2 * batch * heads * item)
    assert found == pytest.approx(seconds)


def test_of_a_prompt_one_row_is_scored(asked, table):
    plan = make_plan(asked("llama-3.2-1b", prompt=256), table)
    rows, E = 256, 2048
    short, message = table.short, 256 * 2048 * 2
    other = (
        short["fill_in_tokens"].seconds(4 * rows)
        + short["embedding"].seconds(2 * message)
        + table.product(1).seconds(128256 * E)
        + short["argmax"].seconds(4 * 128256)
    )
    assert plan.prompt.slowest.other == pytest.approx(other)


def test_a_load_counts_its_rows():
    assert Load(3, 4, 10).rows == 12
    assert math.isclose(StageTime(1, 2, 3, 4).seconds, 10)
