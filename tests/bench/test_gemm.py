"""The benchmark of products: small ones, in the simulator, by events of a fake GPU."""

import dataclasses
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from llm_numba.bench import gemm, gemm_peers, gemm_pictures, gemm_pipeline, gemm_points, gemm_tables
from llm_numba.bench.budget import Budget
from llm_numba.bench.gemm_goals import GOALS, reached
from llm_numba.bench.gemm_points import EPILOGUES, PRODUCTS, Product
from llm_numba.bench.gpu_timing import GPUTimer
from llm_numba.bench.nvml import ClockWatch
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError
from llm_numba.runtime import zeros
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, resources, signature_of

WAYS = tuple(way for way in EPILOGUES if way != "quantised")
SMALL = Product("small", 40, 24, 16, ways=(*WAYS, "gemm_tensorcore/ldmatrix"))


class Ticks:
    """Events a millisecond apart."""

    now = 0.0

    def record(self):
        self.now += 1e-3
        return self.now

    def seconds(self, begin, end):
        return end - begin

    def synchronize(self):
        pass


def bench(*, ends=(1.0,), torch=None, read=None):
    """A bench in the simulator, whose clock shows what is given, and then the last of it."""
    times = [0.0, *ends]
    budget = Budget(1.5, {"small": 1}, lambda: times.pop(0) if len(times) > 1 else times[0])
    timer = GPUTimer(repeats=5, warmup=1, events=Ticks(), clock=lambda: 0.0)
    settings = gemm.GemmSettings(rounds=2, identical=2)
    return gemm.Bench(settings, budget, timer, torch, read, [], "sim")


@pytest.fixture(autouse=True)
def _few_copies(monkeypatch):
    monkeypatch.setattr(gemm, "_ROTATED_BYTES", 0)


# -- What is measured -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    patch = pytest.MonkeyPatch()
    patch.setattr(gemm, "_ROTATED_BYTES", 0)
    torch = SimpleNamespace(
        from_dlpack=lambda array: SimpleNamespace(view=lambda dtype: array),
        bfloat16=object(),
        nn=SimpleNamespace(functional=SimpleNamespace(linear=lambda x, weight: None)),
    )
    here = bench(torch=torch, read=lambda: (1500.0, 600.0))
    results = {each.name: each for each in here.measure(SMALL)}
    patch.undo()
    assert here.wrong == []
    return results


def test_each_way_is_right_and_timed_in_turns(measured):
    for way in SMALL.ways:
        result = measured[f"{way}/bfloat16/40x24x16"]
        assert result.statistic.n == 2 * 5, "repeats of two rounds"
        assert result.statistic.median == pytest.approx(2 * 40 * 24 * 16 / 1e-3 / 1e12)
        assert result.shape["error"] < 0.01
        assert result.shape["identical"] == 2


def test_the_record_names_the_kernels_that_were_chosen(measured):
    (kernel, *_) = measured["linear/bfloat16/40x24x16"].shape["kernels"]
    assert kernel.startswith("gemm")
    ladder = measured["gemm_tensorcore/ldmatrix/bfloat16/40x24x16"].shape
    assert ladder["kernels"] == ["gemm_unstaged"]


def test_speeds_are_shares_of_cublas_and_epilogues_of_the_plain_product(measured):
    assert measured["of_cublas/silu_mul/bfloat16/40x24x16"].statistic.median == pytest.approx(1)
    over = measured["over_linear/residual/bfloat16/40x24x16"].statistic
    assert (over.unit, over.median) == ("%", pytest.approx(0))
    assert not any(name.startswith("over_linear/gemm") for name in measured)
    assert "of_cublas/cublas/bfloat16/40x24x16" not in measured


def test_bias_and_gelu_are_held_against_a_kernel_of_their_own(monkeypatch):
    ran = []
    functional = SimpleNamespace(
        linear=lambda x, weight, bias=None: ran.append(bias is not None),
        gelu=lambda product: ran.append("gelu"),
    )
    torch = SimpleNamespace(
        from_dlpack=lambda array: SimpleNamespace(view=lambda dtype: array),
        bfloat16=object(),
        nn=SimpleNamespace(functional=functional),
    )
    fused = Product("epilogues", 40, 24, 16, ways=("linear", "bias_gelu"))
    budget = Budget(1.5, {"epilogues": 1}, lambda: 0.0)
    here = dataclasses.replace(bench(torch=torch), budget=budget)
    results = {each.name: each for each in here.measure(fused)}
    assert ran[:2] == [True, "gelu"]
    assert "of_cublas/bias_gelu/bfloat16/40x24x16" not in results
    saved = results["saved/bias_gelu/bfloat16/40x24x16"].statistic
    assert (saved.unit, saved.median) == ("%", pytest.approx(0)), "a turn is a millisecond"
    table = gemm_tables.epilogues({name: each.to_json() for name, each in results.items()})
    assert table.rows[0][-1] == "-0.0 %"


def test_clocks_of_the_run_are_in_the_record(measured):
    shape = measured["cublas/bfloat16/40x24x16"].shape
    assert (shape["sm_mhz"], shape["least_sm_mhz"], shape["watts"]) == (1500.0, 1500.0, 600.0)


def test_who_is_first_changes_from_round_to_round():
    order = []
    timer = SimpleNamespace(
        time=lambda works, capture: order.append(works[0]) or gemm.Timing([1.0], 0.0, 1)
    )
    found = gemm._in_turns({name: ([name], None) for name in "abc"}, timer, 3)
    assert "".join(order) == "abccbaabc"
    assert found["b"].seconds == [1.0] * 3


def test_cublas_stands_once_beside_a_shape_that_the_ladders_have_too():
    timing = gemm.Timing([1e-3], 0.0, 1)
    ladder = dataclasses.replace(SMALL, part="steps")
    found = gemm._results(ladder, {"gemm_hopper/stored": timing, "cublas": timing}, {}, {})
    names = [each.name for each in found]
    assert names == [f"{of}gemm_hopper/stored/{SMALL.key}" for of in ("", "of_cublas/")]


def test_without_a_management_library_there_are_no_clocks():
    with ClockWatch(None) as watch:
        pass
    assert watch.to_json() == {}


@pytest.mark.slow
def test_a_product_that_quantises_is_held_to_its_own_rounding():
    product = Product("epilogues", 9, 128, 64, ways=("quantised",))
    _, notes = bench().check(product, "quantised", [product.operands(0, "sim")])
    assert 2.0**-8 < notes["error"] < 2.0**-4


def test_float32_by_name_is_held_to_tf32_and_against_tf32():
    product = Product("tf32", 9, 16, 36, "float32", ("tf32",))
    operands = product.operands(0, "sim")
    (made,), notes = bench().check(product, "tf32", [operands])
    assert made.rounding == 2.0**-10
    assert notes["error"] < made.rounding
    assert notes["kernels"] == ["gemm_specialised"]
    asked = []
    torch = SimpleNamespace(
        set_float32_matmul_precision=asked.append,
        from_dlpack=lambda array: array,
        nn=SimpleNamespace(functional=None),
    )
    assert list(gemm_peers.peers(torch, product, [operands])) == ["cublas"]
    assert asked == ["high"]


def test_few_rows_go_to_the_kernel_for_few_rows():
    here = bench()
    results = {each.name: each for each in here.measure(Product("small", 2, 24, 16))}
    (kernel, *_) = results["linear/bfloat16/2x24x16"].shape["kernels"]
    assert kernel.startswith("gemv")


# -- What is wrong is not timed -------------------------------------------------------------------


def broken(monkeypatch, change):
    """Let what a way launches be changed; return what is said of it."""
    right = gemm.plan

    def plan(way, operands):
        planned = right(way, operands)
        return planned._replace(launches=change(planned.launches, operands))

    monkeypatch.setattr(gemm, "plan", plan)
    here = bench()
    assert list(here.measure(dataclasses.replace(SMALL, ways=("linear",)))) == []
    (error,) = here.wrong
    return error.cause


def test_a_kernel_that_writes_nothing_is_found(monkeypatch):
    assert "is off by nan" in broken(monkeypatch, lambda launches, operands: ())


def test_an_output_that_nobody_looks_at_and_nobody_writes_is_found(monkeypatch):
    monkeypatch.setattr(gemm, "_CHECKED", 2)  # the corners
    launch_all = gemm.launch_all

    def all_but_one(launches):
        launch_all(launches)
        out = launches[0].args[-1]
        gemm_points.bits(out.reshape(-1))[100] = 0xFFFF

    monkeypatch.setattr(gemm, "launch_all", all_but_one)
    said = broken(monkeypatch, lambda launches, operands: launches)
    assert "leaves outputs unwritten" in said


def test_other_bits_in_another_run_are_found(monkeypatch):
    launch_all, runs = gemm.launch_all, []

    def drifting(launches):
        launch_all(launches)
        runs.append(None)
        if len(runs) == 2:
            gemm_points.bits(launches[0].args[-1].reshape(-1))[7] ^= 1

    monkeypatch.setattr(gemm, "launch_all", drifting)
    said = broken(monkeypatch, lambda launches, operands: launches)
    assert "computes 1 numbers otherwise when it is run again" in said


def test_a_step_that_the_gpu_has_no_instructions_for_is_left_out_and_says_so(monkeypatch):
    monkeypatch.setattr(gemm_points, "is_architecture", lambda x, capability: False)
    here = bench()
    ways = ("linear", "gemm_hopper/stored", "gemm_tensorcore/ldmatrix")
    names = [each.name for each in here.measure(dataclasses.replace(SMALL, ways=ways))]
    assert names == [f"{way}/bfloat16/40x24x16" for way in ways if "hopper" not in way]
    (said,) = here.budget.left_out.values()
    assert said == "it takes compute capability 9.0a"


# -- Time -----------------------------------------------------------------------------------------


def test_what_there_is_no_time_for_is_noted_and_the_rest_is_kept():
    # Two ways may begin; then it is late.
    here = bench(ends=(0.5, 0.5, 2.0))
    names = [each.name for each in here.measure(SMALL)]
    assert names[:2] == [f"{way}/bfloat16/40x24x16" for way in SMALL.ways[:2]]
    assert list(here.budget.left_out) == [f"{SMALL.label}/{way}" for way in SMALL.ways[2:]]


def test_a_product_that_fails_takes_nothing_from_the_others(monkeypatch):
    def operands(self, seed, device):
        if self.M == 9:
            raise MemoryError("no room")
        return right(self, seed, "sim")

    right = Product.operands
    monkeypatch.setattr(Product, "operands", operands)
    monkeypatch.setattr(gemm, "PRODUCTS", tuple(Product("small", M, 24, 16) for M in (9, 2)))
    monkeypatch.setattr(gemm, "read_bandwidth", lambda timer: [1e9])
    timer = GPUTimer(2, 1, events=Ticks(), clock=lambda: 0.0)
    monkeypatch.setattr(gemm, "GPUTimer", lambda *all_, **named: timer)
    for name in ("import_torch", "reader", "_free_memory"):
        monkeypatch.setattr(gemm, name, lambda: None)
    settings = gemm.GemmSettings(rounds=1, identical=1)
    budget, wrong = settings.budget(60.0), []
    names = [each.name for each in gemm.measure(settings, budget, wrong, {})]
    assert names == ["read", "linear/bfloat16/2x24x16"]
    assert (budget.left_out, wrong) == ({"small/9x24x16": "MemoryError: no room"}, [])


# -- What is to be reached ------------------------------------------------------------------------


def results_of(names, median, unit="x"):
    figures = {"median": median, "p10": median, "p90": median, "unit": unit}
    return {name: {"name": name, **figures} for name in names}


def test_goals_name_results_that_the_benchmark_has():
    keys = {each.key for each in PRODUCTS}
    ways = {way for each in PRODUCTS for way in each.ways}
    for goal in GOALS:
        assert goal.names
        for name in goal.names:
            found = name.removeprefix("of_cublas/").removeprefix("over_linear/")
            way, dtype, size = found.rsplit("/", 2)
            assert way in ways
            assert f"{dtype}/{size}" in keys


def test_forty_large_products_and_twenty_small_ones_are_held_against_cublas():
    counts = {goal.name: len(goal.names) for goal in GOALS}
    assert counts["projections"] == counts["worst"] == 40
    assert counts["small"] == 20
    assert counts["mma_sync"] == 2


def test_the_geomean_and_the_worst_are_of_all_that_was_measured():
    goal = next(each for each in GOALS if each.name == "projections")
    results = results_of(goal.names[:2], 1.0) | results_of(goal.names[2:3], 0.5)
    found = {each.name: each for each in reached(results)}
    assert found["goal/projections"].statistic.median == pytest.approx(0.5 ** (1 / 3))
    assert found["goal/projections"].shape["measured"] == 3
    assert found["goal/projections"].meets_target is False
    assert found["goal/worst"].statistic.median == 0.5
    assert found["goal/worst"].shape["which"] == goal.names[2]
    assert "goal/small" not in found


def test_an_epilogue_may_take_little_time_and_a_speed_must_be_reached():
    goals = {each.name: each for each in GOALS}
    results = results_of(goals["silu_mul"].names, 2.0, "%")
    results |= results_of(goals["mma_sync"].names, 431.0, "TFLOP/s")
    found = {each.name: each for each in reached(results)}
    assert found["goal/silu_mul"].meets_target is True
    assert found["goal/mma_sync"].meets_target is False


def test_a_part_that_is_measured_again_takes_its_place_in_the_record():
    environment = {"gpus": [], "packages": {}, "git": None}
    goal = next(each for each in GOALS if each.name == "square_4096")
    worst = next(each for each in GOALS if each.name == "worst").names[:1]
    both = {"environment": environment, "date": "", "command": [], "settings": {}}
    left = {"half/4096x4096x4096/linear": "its time was up", "small/8x4096x4096": "as well"}
    first = results_of(goal.names, 0.8) | results_of(worst, 0.9)
    earlier = both | {"results": list(first.values()), "left_out": left}
    later = both | {"results": list(results_of(goal.names, 1.1).values()), "left_out": {}}
    later["pipeline"] = {"spans": []}
    record = gemm.completed(later, gemm.completed(earlier, None, ()), ("half",))
    found = {each["name"]: each for each in record["results"]}
    assert found["goal/square_4096"]["median"] == 1.1
    assert found["goal/worst"]["median"] == 0.9
    assert record["left_out"] == {"small/8x4096x4096": "as well"}
    assert record["pipeline"] == {"spans": []}


# -- Inside a block -------------------------------------------------------------------------------

SLABS, TILES = 8, 2


@pytest.fixture(scope="module")
def notes():
    """What a block would note whose producer waits 90 of 100 cycles, and whose consumers store."""
    made = np.zeros((3, 8, SLABS * TILES + 1), np.int64)
    for slab in range(SLABS * TILES):
        made[0, :3, slab] = 5000 + 100 * slab + np.array([0, 90, 95])
    for role in (1, 2):
        now = 5100
        for slab in range(SLABS * TILES):
            made[role, 3:6, slab] = now + np.array([0, 10, 100])
            now += 100
            if (slab + 1) % SLABS == 0:
                made[role, 6:, slab + 1] = now + np.array([50, 250])
                now += 250
    return made


def test_notes_become_spans_from_the_first_on(notes):
    spans = gemm_pipeline.spans(notes)
    assert spans[0] == ("producer", "waits", 0, 0, 90)
    one = [each for each in spans if each.role == "consumer 1"]
    assert one[:2] == [
        ("consumer 1", "waits", 0, 100, 110),
        ("consumer 1", "multiplies", 0, 110, 200),
    ]
    ends = [each for each in one if each.what == "stores"]
    assert [each.until - each.since for each in ends] == [200, 200]
    # The last products of a tile end behind its last slab, before it is stored.
    before = one[one.index(ends[0]) - 1]
    assert before[1:] == ("multiplies", SLABS - 1, ends[0].since - 50, ends[0].since)
    assert all(a.until <= b.since for a, b in pairwise(one))


def test_shares_are_of_the_time_of_the_block(notes):
    spans = gemm_pipeline.spans(notes)
    whole = 100 + TILES * (SLABS * 100 + 250)
    assert gemm_pipeline.shares_of(spans, "producer")["waits"] == pytest.approx(1440 / whole)
    consumer = gemm_pipeline.shares_of(spans, "consumer 2")
    assert consumer["stores"] == pytest.approx(400 / whole)
    assert sum(consumer.values()) == pytest.approx(1 - 100 / whole)


def test_a_change_of_tiles_is_shown_with_slabs_on_both_sides(notes):
    shown = gemm_pipeline.around_a_change(gemm_pipeline.spans(notes), SLABS)
    assert min(each.since for each in shown) == 0
    slabs = {each.slab for each in shown if each.what == "multiplies"}
    assert slabs == set(range(SLABS - 5, SLABS + 6))
    picture = gemm_pictures.pipeline({"slabs": SLABS, "spans": shown})
    assert "Storing takes: consumer 1 200 cycles, consumer 2 200 cycles." in picture.alt
    assert "producer" in picture.svg


@pytest.mark.ptx
def test_the_kernel_that_notes_reads_the_clock_and_stays_in_registers():
    if problem := compiler_problem():
        pytest.skip(problem)

    # Memory of a GPU, as far as a compiler looks.
    where = {"shape": (3, 8, 65), "typestr": "<i8", "data": (1 << 40, False), "strides": None}
    notes = SimpleNamespace(__cuda_array_interface__=where | {"version": 3})
    operands = Product("pipeline", 256, 512, 128).operands(0, "sim")
    (plain,) = gemm_pipeline.LADDER.step(gemm_pipeline.STEP).plan(**operands)
    noted = plain._replace(kernel=gemm_pipeline.noted_kernel("bfloat16", notes, 65))
    clocks = []
    for launch in (plain, noted):
        text = compile_to_ptx(launch.kernel, signature_of(launch), gemm_pipeline.HOPPER)
        clocks.append(text.count("%clock64"))
    assert clocks[0] == 0
    assert clocks[1] >= gemm_pipeline.STORED_TILE + 1
    assert resources(noted, gemm_pipeline.HOPPER).stack_bytes == 0


@pytest.mark.gpu
def test_a_block_is_looked_into_on_a_gpu():
    timer, pictures = GPUTimer(repeats=2, warmup=1), {}
    product = Product("pipeline", 4096, 4096, 256)
    if why := gemm_points.why_not("gemm_hopper/stored", zeros(1, "bfloat16", "cuda")):
        pytest.skip(why)
    found = {each.name: each.statistic for each in gemm_pipeline.measure(product, timer, pictures)}
    for role in gemm_pipeline.ROLES:
        shares = [each.median for name, each in found.items() if role in name]
        assert len(shares) == (2 if role == "producer" else 3)
        assert 50 < sum(shares) <= 100
    assert pictures["pipeline"]["slabs"] == 4
    assert {each.what for each in pictures["pipeline"]["spans"]} >= {"multiplies", "stores"}


# -- The command ----------------------------------------------------------------------------------


def test_products_are_chosen_by_part_or_pattern():
    assert {each.part for each in gemm.choose(["small"])} == {"small"}
    assert {each.M for each in gemm.choose(["projections/512x*"])} == {512}
    assert gemm.choose([]) == list(PRODUCTS)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(LLMNumbaError, match="--only flops names nothing"):
        gemm.choose(["small", "flops"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--only", "flops"], "names nothing"), (["--into", "x.json"], "Name some with --only")],
)
def test_a_mistake_is_told_in_a_sentence(arguments, said):
    done = CliRunner().invoke(app, ["bench", "gemm", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_operands_are_random_and_differ_from_set_to_set():
    one, other = (dataclasses.replace(SMALL, ways=("linear",)).operands(s, "sim") for s in (0, 1))
    assert sorted(one) == ["out", "weight", "x"]
    for name in ("x", "weight"):
        assert len(np.unique(one[name])) > 100
        assert (one[name] != other[name]).mean() > 0.9
    assert gemm_points.bits(zeros(3, "bfloat16", "sim")).dtype == np.uint16


# -- What is shown of it --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(measured):
    return {name: each.to_json() for name, each in measured.items()}


def test_a_table_has_a_row_for_each_product_and_its_share_of_the_tensor_cores(shown):
    (row,) = gemm_tables.products(shown, "small", "9.0", 132).rows
    assert row[0] == "40 x 24 x 16"
    assert row[1].startswith("`gemm")
    assert row[4] == "1"
    for dtype, most in (("bfloat16", 409.6), ("float32", 204.8)):
        found = {"median": 200.0, "shape": {"sm_mhz": 1000.0, "dtype": dtype}}
        assert gemm_tables.of_tensor_cores(found, "9.0", 100) == pytest.approx(200 / most)
        assert gemm_tables.of_tensor_cores(found, "8.0", 100) is None


def test_epilogues_are_shown_beside_the_plain_product(shown):
    rows = gemm_tables.epilogues(shown).rows
    assert [row[0].split("`")[1] for row in rows] == ["bias_gelu", "silu_mul", "residual"]
    assert {row[3] for row in rows} == {"+0.0 %"}


def test_goals_are_shown_without_a_record_and_say_what_is_short():
    assert {row[3] for row in gemm_tables.goals({}).rows} == {"-"}
    goal = next(each for each in GOALS if each.name == "worst")
    found = {each.name: each.to_json() for each in reached(results_of(goal.names[:1], 0.5))}
    (row,) = [row for row in gemm_tables.goals(found).rows if row[3] != "-" and row[0] == goal.what]
    which = goal.names[0].rpartition("/")[2]
    assert row[1:] == ["≥ 0.88", "≥ 0.95", "0.5, short", f"1 of 40: {which}"]


def test_pictures_tell_in_words_what_they_show(shown):
    eight = {"M": 512, "N": 4096, "K": 4096, "part": "projections"}
    results = {
        name: {**each, "shape": each["shape"] | eight} for name, each in shown.items()
    }  # the shape of a model's product, for its row
    picture = gemm_pictures.shares(results)
    assert "Share of cuBLAS of 1 products" in picture.alt
    assert "8B output" in picture.svg
    roof = gemm_pictures.under_the_roof(results, 3000.0, "9.0", 132)
    assert "Memory: 3,000 GB/s. Arithmetic: 811 TFLOP/s." in roof.alt
    assert "512 rows and more: what takes longest" in roof.alt
