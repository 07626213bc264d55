"""The benchmark of ladders: on tiny shapes, in the simulator, by events of a fake GPU."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from small_points import small, small_point
from typer.testing import CliRunner

from llm_numba.bench import kernel_points, kernels
from llm_numba.bench.gpu_timing import GPUTimer
from llm_numba.bench.kernel_points import allowed_error, relative_error, repeated
from llm_numba.bench.points import POINTS
from llm_numba.cli.app import app
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels import softmax
from llm_numba.kernels.ladder import Step


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


@pytest.fixture(autouse=True)
def _few_copies(monkeypatch):
    monkeypatch.setattr(kernels, "_ROTATED_BYTES", 0)


def measured(small, torch=None, copy_rate=1.0):
    timer = GPUTimer(repeats=5, warmup=1, events=Ticks(), clock=lambda: 0.0)
    results = kernels.measure_point(small, timer, copy_rate, torch, "sim")
    return {result.name: result for result in results}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_the_reference_takes_the_operands_of_each_point(point):
    point = small(point)
    rows = np.array([0, 2])
    operands = point.operands()
    for name, expected in point.expected(operands, rows).items():
        whole = operands[name]
        assert expected.shape == (whole[rows] if name in point.by_rows else whole).shape
        assert expected.dtype in (np.float64, np.int64, np.int32)


@pytest.mark.parametrize(
    "name",
    ["saxpy/float32", "histogram/int32", "row_sum/bfloat16", "transpose/bfloat16",
     "softmax/bfloat16", "layer_norm/bfloat16", "rms_norm_fused/bfloat16",
     "rope_attention/bfloat16"],
)  # fmt: skip
def test_every_step_is_checked_and_timed(name):
    small = small_point(name)
    results = measured(small)
    steps = [f"{name}/{step.name}" for step in small.chosen]
    assert [key for key in results if key.startswith(name)] == steps
    for key in steps:
        assert results[key].statistic.n == 5
        assert results[key].shape["microseconds"] == pytest.approx(1000)


def test_speed_is_the_fewest_bytes_a_second_and_a_share_of_the_copy():
    results = measured(small_point("transpose/bfloat16"), copy_rate=2e-3)
    speed = results["transpose/bfloat16/tile"]
    assert (speed.statistic.unit, speed.shape["bytes"]) == ("GB/s", 2 * 5 * 272 * 2)
    assert speed.statistic.median == pytest.approx(2 * 5 * 272 * 2 / 1e-3 / 1e9)
    share = results["of_copy/transpose/bfloat16/tile"].statistic
    assert (share.unit, share.median) == ("%", pytest.approx(100 * speed.statistic.median / 2e-3))


def test_arithmetic_is_counted_where_it_is_the_ceiling():
    results = measured(dataclasses.replace(small_point("gemm/float32"), steps=("padded",)))
    speed = results["gemm/float32/padded"]
    assert speed.statistic.median == pytest.approx(2 * 3 * 17 * 33 / 1e-3 / 1e12)
    assert "of_copy/gemm/float32/padded" not in results


def test_rows_that_repeat_are_random_and_fill_their_operands(monkeypatch):
    monkeypatch.setattr(kernel_points, "_RANDOM_ROWS", 4)
    made = repeated(softmax.LADDER, ("x", "out"))((10, 33), np.dtype("float32"), 0)
    assert made["x"].shape == made["out"].shape == (10, 33)
    np.testing.assert_array_equal(made["x"][4:8], made["x"][:4])
    assert len(np.unique(made["x"][:4])) == 4 * 33


def test_a_norm_alone_moves_one_matrix_in_and_one_out():
    assert small_point("layer_norm/bfloat16").fewest_bytes == (2 * 5 + 2) * 272 * 2
    assert small_point("rms_norm/bfloat16").fewest_bytes == (2 * 5 + 1) * 272 * 2
    assert small_point("rms_norm_fused/bfloat16").fewest_bytes == (4 * 5 + 1) * 272 * 2


# -- What is wrong is not timed -------------------------------------------------------------------


def with_step(small, plan):
    step = Step("broken", "", plan, ())
    ladder = dataclasses.replace(small.ladder, steps=(step,))
    return dataclasses.replace(small, ladder=ladder, steps=())


def test_a_step_that_writes_nothing_does_not_pass_on_what_the_last_one_wrote():
    small = small_point("softmax/float32")
    right = small.ladder.steps[0]
    idle = Step("idle", "", lambda **operands: (), ())
    ladder = dataclasses.replace(small.ladder, steps=(right, idle))
    with pytest.raises(LLMNumbaError, match="idle: `out` is off by nan"):
        measured(dataclasses.replace(small, ladder=ladder))


def test_a_step_that_is_wrong_in_the_last_row_is_refused():
    small = dataclasses.replace(small_point("row_sum/float32"), shape=(300, 64))
    tree = small.ladder.step("tree")

    def plan(x, out):
        x[-1, 0] += 1.0
        return tree.plan(x=x, out=out)

    with pytest.raises(LLMNumbaError, match="broken"):
        measured(with_step(small, plan))


def test_a_wrong_kernel_ends_its_ladder_and_no_other(monkeypatch):
    idle = with_step(small_point("softmax/float32"), lambda **operands: ())
    points = [idle, small_point("row_sum/float32")]
    monkeypatch.setattr(kernels, "choose", lambda only: points)
    monkeypatch.setattr(kernels, "import_torch", lambda: None)
    for rate in ("copy_bandwidth", "read_bandwidth"):
        monkeypatch.setattr(kernels, rate, lambda timer: [1e9])
    measure_point = kernels.measure_point
    monkeypatch.setattr(
        kernels, "measure_point", lambda point, *others: measure_point(point, *others, "sim")
    )
    monkeypatch.setattr(
        kernels, "GPUTimer", lambda *all_: GPUTimer(2, 1, events=Ticks(), clock=lambda: 0.0)
    )
    wrong: list[LLMNumbaError] = []
    names = [result.name for result in kernels.measure(kernels.KernelSettings(), wrong)]
    assert "row_sum/float32/tree" in names
    assert not any(name.startswith("softmax") for name in names)
    (error,) = wrong
    assert "broken: `out` is off by nan" in error.cause


def test_rounding_is_allowed_and_more_is_not():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=100_000)
    for name, more in (("float32", 2.0**-20), ("float16", 2.0**-8)):
        rounded = exact.astype(name)
        assert 0 < relative_error(rounded, exact) <= allowed_error(rounded, 1)
        assert relative_error(rounded * (1 + more), exact) > allowed_error(rounded, 1)
    assert allowed_error(np.zeros(1, np.int32), 1000) == 0.0


def test_nan_is_an_error_of_its_own():
    assert np.isnan(relative_error(np.array([np.nan, 1.0]), np.ones(2)))


# -- PyTorch --------------------------------------------------------------------------------------


class Tensor:
    """A tensor as far as the benchmark looks."""

    def __init__(self, array):
        self.array = array
        self.dtype = array.dtype

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self.array)


def torch_with(add):
    """PyTorch, whose one operation is an addition."""
    return SimpleNamespace(
        from_dlpack=Tensor,
        bfloat16=object(),
        add=lambda y, x, alpha: Tensor(add(np.asarray(y.array), alpha * np.asarray(x.array))),
        compile=lambda run, dynamic: run,
        compiler=SimpleNamespace(reset=lambda: None),
    )


def test_pytorch_is_checked_and_timed_on_the_same_operands():
    results = measured(small_point("saxpy/float32"), torch_with(np.add))
    eager = results["saxpy/float32/pytorch"]
    assert "torch.add(y, x, alpha=alpha)" in eager.what
    assert results["of_pytorch/saxpy/float32/stride"].statistic.median == pytest.approx(1.0)
    assert "of_pytorch/saxpy/float32/pytorch" not in results


def test_torch_compile_is_held_against_where_it_has_something_to_fuse():
    saxpy = small_point("saxpy/float32")
    with_it = measured(dataclasses.replace(saxpy, compiled=True), torch_with(np.add))
    assert with_it["of_compiled/saxpy/float32/stride"].statistic.median == pytest.approx(1.0)
    without = measured(dataclasses.replace(saxpy, compiled=False), torch_with(np.add))
    assert not any("compiled" in name for name in without)


def test_a_pytorch_that_computes_something_else_is_no_baseline():
    with pytest.raises(LLMNumbaError, match="PyTorch"):
        measured(small_point("saxpy/float32"), torch_with(np.subtract))


def test_a_ladder_without_an_equivalent_has_no_ratio():
    results = measured(small_point("histogram/int32"), torch_with(np.add))
    assert not any(name.startswith("of_pytorch") for name in results)


# -- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "names"),
    [("softmax", ["softmax/float32", "softmax/bfloat16"]), ("gemm/float32", ["gemm/float32"]),
     ("row_sum/*", ["row_sum/float32", "row_sum/bfloat16", "row_sum/int32"])],
)  # fmt: skip
def test_points_are_chosen_by_name_or_pattern(only, names):
    assert [point.name for point in kernels.choose([only])] == names


def test_all_points_are_chosen_by_default():
    assert kernels.choose([]) == list(POINTS)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(LLMNumbaError, match="--only flops names nothing"):
        kernels.choose(["softmax", "flops"])


def test_the_command_wants_a_gpu(monkeypatch):
    from llm_numba.runtime import device

    monkeypatch.setattr(device, "gpu_problem", lambda: "there is none")
    result = CliRunner().invoke(app, ["bench", "kernels"])
    assert result.exit_code == 2
    assert "there is none" in " ".join(result.output.split())


def test_a_part_of_a_record_is_renewed_only_if_it_is_named():
    result = CliRunner().invoke(app, ["bench", "kernels", "--into", "kernels.json"])
    assert result.exit_code == 2
    assert "Name some with --only" in " ".join(result.output.split())


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_operands_lie_as_kernels_want_them(point):
    for value in small(point).operands().values():
        assert not isinstance(value, np.ndarray) or value.flags.c_contiguous
