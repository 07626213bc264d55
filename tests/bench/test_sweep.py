"""The sweep: candidates and limits on registers, those that can be launched."""

from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda, float32
from typer.testing import CliRunner

from llm_numba.bench import sweep
from llm_numba.cli.app import app
from llm_numba.runtime import Launch


@cuda.jit(launch_bounds=256, fastmath=True)
def doubled(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] = float32(2) * x[i]


def test_without_a_limit_a_kernel_is_left_as_it_is():
    plan = (Launch(doubled, (1,), (32,), ()),)
    assert sweep.under_limit(plan, None) == plan


def test_under_a_limit_the_same_function_is_compiled_anew_once():
    first, second = sweep.under_limit([Launch(doubled, (1,), (32,), (7,), 5)] * 2, 40)
    assert first == second
    assert first[1:] == ((1,), (32,), (7,), 5)
    assert first.kernel.py_func is doubled.py_func
    options = first.kernel.targetoptions
    assert (options["max_registers"], options["fastmath"]) == (40, True)
    # The kernel's own bounds would hold the compiler to another number of registers.
    assert not options.get("launch_bounds")


def test_each_kernel_of_the_sweep_can_be_tuned():
    tunables = sweep.chosen_tunables(tuple(sweep.SHAPES))
    for tunable in tunables:
        shape, dtype = sweep.SHAPES[tunable.name], sweep.DTYPES[tunable.name]
        assert len(shape) == len(tunable.ladder.axes.split())
        assert len(tunable.candidates(shape, dtype)) > 1, "a map of one place shows nothing"


def test_a_kernel_that_is_not_swept_is_named():
    done = CliRunner().invoke(app, ["bench", "sweep", "--only", "saxpy"])
    assert done.exit_code == 2
    assert "--only saxpy names no kernel that is swept" in " ".join(done.stderr.split())


@pytest.mark.gpu
def test_a_limit_shows_in_what_the_compiler_made(monkeypatch):
    monkeypatch.setattr("llm_numba.bench.kernels._ROTATED_BYTES", 0)
    monkeypatch.setattr(sweep, "REGISTER_LIMITS", {"gemv": (None, 32)})
    (tunable,) = sweep.chosen_tunables(("gemv",))
    timer = sweep.GPUTimer(repeats=5, warmup=1, budget_seconds=0.01)
    found = list(sweep.sweep(tunable, (1, 256, 512), "float32", timer))
    assert {each.shape["limit"] for each in found} == {None, 32}
    for each in found:
        assert 0 < each.shape["occupancy"] <= 1
        assert each.statistic.median > 0
        if each.shape["limit"]:
            assert each.shape["registers"] <= 32


def test_occupancy_is_of_the_registers_that_were_given(monkeypatch):
    gpu = SimpleNamespace(resources_on_gpu=lambda launch: (64, 0, 0))
    monkeypatch.setitem(__import__("sys").modules, "llm_numba.runtime.gpu", gpu)
    monkeypatch.setattr(sweep, "_capability", lambda: (9, 0))
    monkeypatch.setattr(sweep, "device_sets", lambda operands, device: [operands])
    monkeypatch.setattr(sweep, "REGISTER_LIMITS", {"toy": (None, 64, 96, 128)})
    timing = SimpleNamespace(seconds=[1e-6] * 5, warmup=1)
    timer = SimpleNamespace(time=lambda works, capture: timing)
    configs = [SimpleNamespace(_asdict=lambda n=n: {"threads": n, "rows": 1}) for n in (512, 256)]
    tunable = SimpleNamespace(
        name="toy",
        ladder=SimpleNamespace(axes="N", operands=lambda shape, dtype, seed: {"x": np.zeros(4)}),
        candidates=lambda shape, dtype: configs,
        plan=lambda config, x: (Launch(doubled, (1,), (512,), (x,)),),
    )
    found, *others = sweep.sweep(tunable, (4,), "float32", timer)
    assert found.name == "toy/threads 512/registers=own"
    # The compiler wants 64: a limit of 96 does not hold it back, and no larger one is tried.
    assert [each.shape["limit"] for each in others] == [64, 96, None, 64, 96]
    # 64 registers of 1024 threads fill an SM that has room for 2048.
    assert found.shape["occupancy"] == 0.5
    assert found.shape["limited_by"] == "registers"
    assert (found.statistic.median, found.statistic.unit) == (pytest.approx(1), "us")
