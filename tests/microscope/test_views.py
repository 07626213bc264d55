"""What the microscope runs, counts and compares."""

import json
import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from llm_numba.errors import KernelArgumentError, LLMNumbaError
from llm_numba.kernels import transpose
from llm_numba.kernels.ladder import Step, all_ladders
from llm_numba.microscope import examine, find_ladder
from llm_numba.microscope.views import compare
from llm_numba.runtime import Launch

# By hand, for 64 x 64 numbers: 128 requests read them and 128 write them. A row of 32 numbers is
# 4 sectors of float32 and 2 of float16; a column is 32. The tile is stored 128 times by rows and
# read 128 times by columns.
TRANSPOSE = {
    ("float32", "naive"): (128 * (4 + 32), 128 * (4 + 4), 0, 0, 0),
    ("float32", "tile"): (128 * (4 + 4), 128 * (4 + 4), 128 * (1 + 32), 256, 32),
    ("float32", "padded"): (128 * (4 + 4), 128 * (4 + 4), 256, 256, 1),
    ("float32", "swizzled"): (128 * (4 + 4), 128 * (4 + 4), 256, 256, 1),
    ("float16", "naive"): (128 * (2 + 32), 128 * (2 + 2), 0, 0, 0),
    ("float16", "tile"): (128 * (2 + 2), 128 * (2 + 2), 128 * (1 + 16), 256, 16),
    ("bfloat16", "swizzled"): (128 * (2 + 2), 128 * (2 + 2), 256, 256, 1),
}


@pytest.mark.parametrize("case", TRANSPOSE, ids="-".join)
def test_transpose_costs_what_one_counts_by_hand(case):
    dtype, step = case
    examination = examine("transpose", dtype=dtype, steps=[step])
    (view,) = examination.views
    total = view.total
    assert TRANSPOSE[case] == (
        total.global_sectors, total.ideal_sectors,
        total.shared_wavefronts, total.ideal_wavefronts, total.max_bank_ways,
    )  # fmt: skip
    assert total.global_requests == 256
    assert (view.agreement.error, view.agreement.holds) == (0, True)
    assert examination.fewest_bytes == 2 * 64 * 64 * np.dtype(dtype).itemsize


def test_counts_are_the_same_every_time():
    totals = {examine("transpose", steps=["tile"]).views[0].total for _ in range(5)}
    assert len(totals) == 1


def test_steps_come_in_the_order_of_the_ladder_and_are_told_before_they_run():
    told = []
    seen = examine("transpose", (3, 5), steps=["padded", "naive"], progress=told.append)
    assert [view.name for view in seen.views] == told == ["naive", "padded"]
    assert seen.title == "transpose, float32, M=3, N=5"


def test_a_step_of_several_launches_is_counted_as_one():
    (view,) = examine("histogram", (1024, 64), steps=["shared"]).views
    clear, count = view.reports
    assert len(view.launches) == 2
    assert view.total.global_requests == clear.global_requests + count.global_requests
    assert view.total.max_bank_ways == max(line.max_bank_ways for line in count.lines)


def test_a_shape_with_nothing_to_do_launches_nothing():
    (view,) = examine("transpose", (0, 5), steps=["tile"]).views
    assert view.launches == view.reports == ()
    assert (view.total.global_requests, view.total.max_bank_ways) == (0, 0)
    assert view.agreement.holds


def test_a_wrong_result_is_noticed(copies):
    right, wrong = examine(copies).views
    assert right.agreement.holds
    assert not wrong.agreement.holds
    assert wrong.agreement.error == pytest.approx(1 / 255)
    assert not examine(copies).holds
    assert examine(copies, steps=["straight"]).holds


def test_the_worst_of_several_outputs_counts(copies):
    both = replace(
        copies,
        expect=lambda x, out: {"out": x.astype(np.float64), "x": x.astype(np.float64)},
    )
    assert not examine(both, steps=["wrong"]).holds


def test_a_kernel_may_change_what_it_reads(copies):
    @cuda.jit
    def double(x):
        x[cuda.grid(1)] *= 2

    step = Step("in place", "", lambda x: (Launch(double, (8,), (32,), (x,)),), (double,))
    in_place = replace(
        copies,
        steps=(step,),
        operands=lambda shape, dtype, seed: {"x": np.arange(*shape).astype(dtype)},
        expect=lambda x: {"x": 2.0 * x},
    )
    assert examine(in_place).holds


def test_a_random_schedule_reaches_the_simulator(monkeypatch):
    seen = []
    real = examine.__globals__["simulate"]

    def spy(*args, **how):
        seen.append((how["schedule"], how["seed"]))
        return real(*args, **how)

    monkeypatch.setitem(examine.__globals__, "simulate", spy)
    examine("transpose", (8, 8), steps=["tile"], schedule="random", seed=7)
    assert seen == [("random", 7)]


def test_json_holds_every_figure_and_is_json():
    examination = examine("transpose", steps=["tile"])
    read = json.loads(json.dumps(examination.to_json(), allow_nan=False))
    assert (read["name"], read["shape"], read["dtype"]) == ("transpose", [64, 64], "float32")
    (step,) = read["steps"]
    assert step["agreement"]["holds"] is True
    assert step["total"]["shared_wavefronts"] == 4224
    (launch,) = step["launches"]
    assert (launch["kernel"], launch["grid"], launch["block"]) == ("tile", [4, 1, 1], [32, 8, 1])
    lines = sum(line["shared_wavefronts"] for line in launch["lines"])
    assert lines == step["total"]["shared_wavefronts"]


# -- Finding ladders ----------------------------------------------------------------------------


def test_every_ladder_of_the_kernels_is_found():
    ladders = all_ladders()
    assert ladders["transpose"] is transpose.LADDER
    assert {"saxpy", "histogram", "row_sum", "row_max", "softmax"} <= ladders.keys()
    assert all(name == ladder.name for name, ladder in ladders.items())


def test_a_name_that_is_no_ladder_lists_them():
    with pytest.raises(LLMNumbaError, match=r"'transposed'.*transpose"):
        find_ladder("transposed")


@pytest.mark.parametrize(
    ("how", "words"),
    [({"shape": (3,)}, "M N"), ({"shape": (3, 4, 5)}, "64,64"), ({"shape": (3, -1)}, "3,-1"),
     ({"shape": (3, 2.5)}, "2.5"), ({"dtype": "int8"}, "float16"), ({"steps": ["tiled"]}, "tile")],
)  # fmt: skip
def test_what_the_ladder_does_not_have_is_refused(how, words):
    with pytest.raises(KernelArgumentError, match=words):
        examine("transpose", **how)


# -- Agreement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounding_to_the_storage_format_is_no_error(dtype):
    want = np.random.default_rng(0).normal(size=1000)
    assert compare(want.astype(np.dtype(dtype)), want).holds


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_three_units_in_the_last_place_of_the_storage_format_are_an_error(dtype):
    # float32 may also lose a little to arithmetic: 64 units.
    units = {"float32": 64}.get(dtype, 0) + 3
    eps = float(ml_dtypes.finfo(dtype).eps)
    want = np.ones(10)
    got = want.copy()
    got[3] += units * eps
    assert not compare(got.astype(dtype), want).holds


def test_errors_are_measured_against_the_largest_value():
    agreement = compare(np.array([1000.0, 1.5], np.float32), np.array([1000.0, 1.0]))
    assert agreement.error == pytest.approx(0.5 / 1000)


@pytest.mark.parametrize(
    ("got", "want"),
    [([np.nan, 1], [0, 1]), ([0, 1], [np.nan, 1]), ([np.inf, 1], [0, 1]),
     ([np.inf, 1], [-np.inf, 1]), ([1e-30, 0], [0, 0])],
)  # fmt: skip
def test_what_no_rounding_explains_is_infinitely_wrong(got, want):
    agreement = compare(np.array(got, np.float32), np.array(want, np.float64))
    assert agreement.error == math.inf
    assert not agreement.holds


def test_nan_and_infinity_agree_with_themselves():
    values = [np.nan, np.inf, -np.inf, 1.0]
    assert compare(np.array(values, np.float32), np.array(values)).error == 0
    assert compare(np.array([np.nan, 2], np.float32), np.array([np.nan, 1])).error == 1


def test_integers_must_be_equal():
    want = np.array([2**31 - 1, 5])
    assert compare(want.astype(np.int32), want).holds
    agreement = compare(np.array([2**31 - 1, 6], np.int32), want)
    assert not agreement.holds
    assert agreement.allowed == 0


def test_nothing_agrees_with_nothing():
    assert compare(np.empty((0, 3), np.float32), np.empty((0, 3))).holds
