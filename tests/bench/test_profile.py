"""The profile of a step: what it consists of, what it must move, and how it is shown."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from llm_numba import ops
from llm_numba.bench.profile import Operation, Profile, profile_step
from llm_numba.bench.profile_clocks import WallClock, record
from llm_numba.bench.profile_inputs import prepared_step
from llm_numba.bench.profile_picture import describe, draw, duration
from llm_numba.bench.profile_report import chrome_trace, from_json, rows_of, to_json
from llm_numba.bench.profile_traffic import (
    Landmarks,
    StepShape,
    Traffic,
    step_traffic,
    weight_bytes,
)
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import load_model, open_model, resolve_model

BLOCK = 16
GOLDEN = Path(__file__).parents[1] / "golden/fixtures"


def parts(name="random:tiny", device="cpu", num_blocks=64):
    """A model and a cache for it, in float32."""
    files = open_model(resolve_model(name))
    model = load_model(files, np.dtype(np.float32), 256, device=device)
    config = model.config
    shape = (config.num_layers, num_blocks, BLOCK, config.num_kv_heads, config.head_dim)
    return model, PagedKVCache(*shape, np.dtype(np.float32), device)


class TwoToOne:
    """A clock by which each launch takes 2 microseconds, and the gap behind it 1."""

    launch_seconds = 0.5e-6

    def time(self, launches):
        spans = [(3e-6 * i, 3e-6 * i + 2e-6) for i in range(len(launches))]
        return 3e-6 * len(launches), spans


DECODE = StepShape(2, 1, 40)


def profile(shape=DECODE, name="random:tiny", device="cpu"):
    clock = WallClock(1) if device == "cpu" else TwoToOne()
    return profile_step(*parts(name, device), shape, clock)


def test_a_layer_is_five_or_six_operations_named_by_their_weights():
    labels = [each.label for each in profile().operations]
    layer = [
        "linear qkv", "rope_and_write_kv", "paged_attention", "linear out", "linear gate_up",
        "linear down",
    ]  # fmt: skip
    before, behind = ["fill_in_tokens", "embedding embed_tokens"], ["linear lm_head"]
    assert labels == [*before, *layer, *layer, *behind, "argmax"]


def test_operations_know_their_layer_also_where_only_the_cache_tells():
    layers = [each.layer for each in profile().operations]
    assert layers == [None, None, *[0] * 6, *[1] * 6, None, None]


def test_the_operations_bytes_are_those_of_the_whole_step():
    for shape in (StepShape(2, 1, 40), StepShape(1, 24, 24)):
        model, kv_cache = parts()
        found = profile_step(model, kv_cache, shape, WallClock(1)).traffic
        whole = step_traffic(model, kv_cache, shape)
        assert found.kv == whole.kv
        # The whole counts once what RoPE looks up in each layer, and what a tied table is used for.
        again = (model.config.num_layers - 1) * 2 * model.cos[0].nbytes + model.embed_tokens[
            0
        ].nbytes
        assert found.weights == whole.weights + shape.num_tokens * again


def test_attention_that_turns_and_keeps_counts_what_the_two_count_apart():
    alone, found = StepShape(1, 1, 20), {}
    for device in ("cpu", "sim"):
        operations = profile(alone, device=device).operations
        found[device] = {each.label: each for each in operations if each.layer == 0}
    turned, apart = found["sim"]["rope_and_decode_attention"], found["cpu"]
    kept, attended = apart["rope_and_write_kv"], apart["paged_attention"]
    assert turned.flops == attended.flops > 0
    # The new key and value are written, and not read.
    assert turned.traffic.kv == attended.traffic.kv
    assert turned.traffic.weights == kept.traffic.weights > 0
    assert turned.traffic.activations < kept.traffic.activations + attended.traffic.activations


def test_a_step_reads_each_weight_once_and_of_an_untied_table_only_its_rows():
    model, kv_cache = parts()
    looked_up = model.cos.nbytes + model.sin.nbytes
    rows = 2 * model.cos[0].nbytes
    moved = step_traffic(model, kv_cache, StepShape(1, 1, 40)).weights
    assert moved == weight_bytes(model) - looked_up + rows
    model.embed_tokens = model.embed_tokens.copy()  # no longer the LM head
    row = model.embed_tokens[0].nbytes
    assert step_traffic(model, kv_cache, StepShape(1, 1, 40)).weights == moved + row


def test_keys_and_values_are_read_as_far_as_they_are_in_sight():
    model, kv_cache = parts()
    config = model.config
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
    shape = StepShape(batch=3, new_tokens=1, context=40)
    assert step_traffic(model, kv_cache, shape).kv == token * (3 * 40 + 3)
    model.config = dataclasses.replace(config, windows=(10,) * config.num_layers)
    assert step_traffic(model, kv_cache, shape).kv == token * (3 * 10 + 3)


@pytest.mark.parametrize(
    ("shape", "window", "seen", "pairs"),
    [(StepShape(2, 1, 9), None, 18, 18), (StepShape(2, 1, 9), 4, 8, 8),
     (StepShape(1, 3, 3), None, 3, 6), (StepShape(1, 3, 9), 2, 4, 6)],
)  # fmt: skip
def test_a_shape_counts_tokens_in_sight_and_pairs(shape, window, seen, pairs):
    assert (shape.seen(window), shape.pairs(window)) == (seen, pairs)


def test_a_product_counts_two_operations_a_weight_and_row():
    model, _ = parts()
    flops = {each.label: each.flops for each in profile(StepShape(3, 1, 40)).operations}
    assert flops["linear lm_head"] == 2 * 3 * model.lm_head.size
    H, D = model.config.num_heads, model.config.head_dim
    assert flops["paged_attention"] == 4 * H * D * 3 * 40
    assert flops["argmax"] == 0


def test_a_part_of_a_weight_has_the_name_of_the_whole():
    model, kv_cache = parts()
    landmarks = Landmarks(model, kv_cache)
    assert landmarks.weights(model.layers[1].qkv[8:24]) == [("qkv", 1)]
    assert landmarks.weights(np.zeros(4)) == []
    assert landmarks.kv_layer(kv_cache.layers[1][0]) == 1


def test_a_gpt2_names_matrix_and_bias_alike():
    labels = {each.label for each in profile(name=GOLDEN / "gpt2").operations}
    assert {"linear qkv", "linear up", "layer_norm norm_1", "layer_norm final_norm"} <= labels


def test_on_a_device_launches_are_collected_and_do_not_run():
    model, kv_cache = parts(device="sim")
    with prepared_step(model, kv_cache, StepShape(1, 1, 20)) as step:
        recorded = record(step, launch=False)
    assert all(each.launches for each in recorded)
    assert not any(np.any(keys) for keys, _ in kv_cache.layers)


def test_each_kernel_gets_its_own_time():
    found = profile(StepShape(1, 1, 20), device="sim")
    count = sum(len(each.kernels) for each in found.operations)
    assert found.kernel_seconds == pytest.approx(2e-6 * count)
    choice = found.operations[-1]
    assert (choice.name, len(choice.kernels)) == ("argmax", len(choice.spans))
    assert found.parts(1e9)["gaps"] == pytest.approx(1e-6 * count)
    assert found.parts(1e9)["launches"] == pytest.approx(0.5e-6 * count)


def test_blocks_come_back_also_after_a_failure():
    model, kv_cache = parts()
    free = kv_cache.allocator.num_free
    taken = []

    def fail():
        with prepared_step(model, kv_cache, DECODE):
            taken.append(free - kv_cache.allocator.num_free)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert taken == [2 * 3]
    assert kv_cache.allocator.num_free == free


def test_who_watches_operations_stops_when_done():
    names = []

    def note(call):
        names.append(call.name)
        return call.run()

    x = np.ones((1, 4), np.float32)
    with ops.watch(note):
        ops.silu(x)
    ops.silu(x)
    assert names == ["silu"]


# -- What is shown -------------------------------------------------------------------------------


@pytest.fixture
def small():
    operations = [
        Operation("linear", "qkv", 0, Traffic(800, 0, 200), 10, ("gemv",), ((0.0, 2e-6),)),
        Operation("attend", "", 0, Traffic(0, 500, 0), 6, ("a", "b"), ((3e-6, 4e-6), (4e-6, 5e-6))),
        Operation("linear", "qkv", 1, Traffic(800, 0, 200), 10, ("gemv",), ((6e-6, 8e-6),)),
    ]
    return Profile("decode", StepShape(1, 1, 8), operations, 9e-6, 0.25e-6, engine_seconds=12e-6)


def test_the_parts_of_a_step_add_up_to_it(small):
    found = small.parts(bytes_per_second=1e9)
    expected = {
        "weights": 1.6e-6, "kv": 0.5e-6, "launches": 1e-6, "rest of the kernels": 2.9e-6,
        "gaps": 3e-6, "host": 3e-6,
    }  # fmt: skip
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(small.engine_seconds)


def test_rows_gather_the_layers(small):
    first, second = rows_of(small)
    assert (first.label, first.count, first.kernels) == ("linear qkv", 2, ("gemv",))
    assert first.seconds == pytest.approx(4e-6)
    assert first.bytes_per_second == pytest.approx(2000 / 4e-6)
    assert (second.label, second.count, second.kernels) == ("attend", 1, ("a", "b"))
    assert second.flops_per_second == pytest.approx(3e6)


def test_json_keeps_all_of_it(small):
    assert from_json(json.loads(json.dumps(to_json(small, 1e9)))) == small


def test_a_trace_has_a_lane_of_operations_and_one_of_kernels(small):
    events = [each for each in chrome_trace([small])["traceEvents"] if each["ph"] == "X"]
    lanes = [[each for each in events if each["tid"] == lane] for lane in (0, 1)]
    assert [(each["name"], each["ts"], each["dur"]) for each in lanes[0]] == [
        ("linear qkv", 0, 2), ("attend", 3, 2), ("linear qkv", 6, 2),
    ]  # fmt: skip
    assert [each["name"] for each in lanes[1]] == ["gemv", "a", "b", "gemv"]
    assert lanes[0][0]["args"]["weights"] == 800


def test_the_picture_is_one_svg_that_says_what_it_shows(small):
    svg = draw(small, 1e9)
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>\n")
    assert "linear qkv 4 µs" in describe(small, 1e9)
    assert f'aria-label="{describe(small, 1e9)}"' in svg
    assert "var(--draw-a)" in draw(small, 1e9, themed=True)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(1.5, "1.5 s"), (2.25e-3, "2.25 ms"), (5e-6, "5 µs"), (1e-7, "0.10 µs")]
)
def test_durations_have_the_unit_that_suits_them(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="CUPTI has another user, and one at a time is its rule")
def test_a_gpu_times_each_kernel_in_its_place():
    from llm_numba.bench.profile_clocks import GPUClock

    clock = GPUClock(repeats=5, watched=3)
    found = profile_step(*parts(device="cuda"), DECODE, clock)
    spans = [span for each in found.operations for span in each.spans]
    assert len(spans) == sum(len(each.kernels) for each in found.operations)
    begins = [begin for begin, _ in spans]
    assert begins == sorted(begins)
    assert all(begin < end for begin, end in spans)
    # No kernel is shorter than one that does nothing, but for the noise of two clocks.
    assert found.parts(1e12)["launches"] < 1.5 * found.kernel_seconds
    # Watched, the whole is longer; each kernel lies within the seconds that a step may take.
    assert found.kernel_seconds < 2 * found.seconds


@pytest.mark.gpu
@pytest.mark.unsanitised(reason="CUPTI has another user, and one at a time is its rule")
def test_the_names_that_cupti_notes_are_those_that_were_launched():
    from llm_numba.bench.cupti import cupti
    from llm_numba.runtime import launch_all

    model, kv_cache = parts(device="cuda")
    with prepared_step(model, kv_cache, DECODE) as step:
        step()
        recorded = record(step, launch=False)
        launches = [launch for each in recorded for launch in each.launches]

        def run():
            launch_all(launches)
            kv_cache.layers[0][0].device.synchronize()

        runs = cupti().watch(run)
    assert len(runs) == len(launches)
    for launch, run in zip(launches, runs, strict=True):
        assert launch.kernel.py_func.__name__ in run.name
