"""The seam: where a launch goes, and which launches go nowhere."""

import importlib
import threading

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from llm_numba.errors import DeviceError, KernelArgumentError, LaunchError
from llm_numba.runtime import Launch, device, empty_like, intercept, launch, launch_all, to_device

# `llm_numba.runtime.launch` by attribute is the function.
seam = importlib.import_module("llm_numba.runtime.launch")


@cuda.jit
def scale(factor, x, y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = factor * x[i]


@cuda.jit
def add_shared(x, y):
    buffer = cuda.shared.array(0, np.int32)
    i = cuda.threadIdx.x
    buffer[i] = x[i]
    cuda.syncthreads()
    y[i] = buffer[0] + buffer[i]


@cuda.jit
def increment_bits(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += 1


@cuda.jit
def nothing():
    pass


@cuda.jit
def anything(*args):
    args[0][0] = 1


@pytest.fixture
def simulated(monkeypatch):
    """What reaches the simulator."""
    calls = []

    def simulate(kernel, grid, block, args, shared_bytes, explain):
        calls.append(Launch(kernel, grid, block, args, shared_bytes))
        assert explain is False

    monkeypatch.setattr("llm_numba.simulator.simulate", simulate, raising=False)
    return calls


@pytest.fixture
def x():
    return to_device(np.arange(6, dtype=np.float32), "sim")


# -- Where it goes ------------------------------------------------------------------------------


def test_simulated_arrays_run_in_the_simulator(x):
    y = empty_like(x)
    launch(scale, 2, 4, (np.float32(3), x, y))
    np.testing.assert_array_equal(y, 3 * np.arange(6))


def test_dynamic_shared_memory_reaches_the_kernel():
    x = to_device(np.arange(5, 37, dtype=np.int32), "sim")
    y = empty_like(x)
    launch(add_shared, 1, 32, (x, y), 32 * 4)
    np.testing.assert_array_equal(y, 10 + np.arange(32))


def test_a_view_is_written_in_place():
    x = to_device(np.zeros((2, 8), np.int32), "sim")
    launch(increment_bits, 1, 32, (x[1, ::2],))
    np.testing.assert_array_equal(x, [[0] * 8, [1, 0] * 4])


def test_a_kernel_is_given_the_bits_of_bfloat16():
    x = to_device(np.ones(3, ml_dtypes.bfloat16), "sim")
    launch(increment_bits, 1, 32, (x,))
    assert x.view(np.uint16).tolist() == [0x3F81] * 3


def test_launches_run_in_order(x):
    y, z = empty_like(x), empty_like(x)
    launch_all([Launch(scale, 1, 32, (2.0, x, y)), Launch(scale, 1, 32, (5.0, y, z))])
    np.testing.assert_array_equal(z, 10 * np.arange(6))


def test_the_simulator_is_given_plain_numpy_arrays(simulated, x):
    launch(scale, (2, 3), (4,), (1.5, x, x), 64)
    ((_, grid, block, (factor, array, _), shared_bytes),) = simulated
    assert (grid, block, factor, shared_bytes) == ((2, 3), (4,), 1.5, 64)
    assert type(array) is np.ndarray
    assert np.shares_memory(array, x)


def test_numpy_arrays_are_refused_with_both_ways_out(simulated, monkeypatch):
    monkeypatch.delenv("LLM_NUMBA_SIM", raising=False)
    with pytest.raises(DeviceError, match="'scale' was given NumPy arrays") as caught:
        launch(scale, 1, 1, (1.0, np.zeros(3), np.zeros(3)))
    assert "to_device" in caught.value.remedy
    assert "LLM_NUMBA_SIM=1" in caught.value.remedy
    assert not simulated


def test_numpy_arrays_run_where_the_environment_asks_for_the_simulator(simulated, x, monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    launch(scale, 1, 1, (1.0, np.zeros(3), np.zeros(3)))
    launch(scale, 1, 1, (1.0, np.zeros(3), x))
    assert len(simulated) == 2


def test_without_arrays_the_environment_decides(simulated, monkeypatch):
    monkeypatch.setenv("LLM_NUMBA_SIM", "1")
    launch(nothing, 1, 1, ())
    assert len(simulated) == 1
    monkeypatch.delenv("LLM_NUMBA_SIM")
    monkeypatch.setattr(device, "gpu_problem", lambda: "there is no driver")
    with pytest.raises(DeviceError, match="there is no driver"):
        launch(nothing, 1, 1, ())


@pytest.mark.parametrize(
    ("wish", "first", "second", "wrong", "got", "must"),
    [
        ("0", "sim", "host", "y", "host's memory, but 'x' lies in the simulator", "the simulator"),
        ("0", "host", "sim", "x", "host's memory, but 'y' lies in the simulator", "the simulator"),
        ("0", "cuda", "host", "y", "host's memory, but 'x' lies on the GPU", "on the GPU"),
        ("1", "cuda", "host", "y", "host's memory, but 'x' lies on the GPU", "on the GPU"),
        ("1", "cuda", "sim", "y", "in the simulator, but 'x' lies on the GPU", "on the GPU"),
    ],
)
def test_arrays_of_two_places_are_refused_by_name(
    wish, first, second, wrong, got, must, monkeypatch
):
    # Strings stand for arrays of the place that they name.
    kinds = {"sim": "sim", "host": "host", "cuda": "cuda"}
    monkeypatch.setattr(seam, "kind_of", lambda value: kinds.get(value))
    monkeypatch.setenv("LLM_NUMBA_SIM", wish)
    with pytest.raises(KernelArgumentError) as caught:
        launch(scale, 1, 1, (1.0, first, second))
    assert f"Argument {wrong!r} of kernel 'scale' lies" in caught.value.cause
    assert got in caught.value.cause
    assert f"{wrong!r} must lie" in caught.value.remedy
    assert must in caught.value.remedy


@pytest.mark.parametrize("value", [[1.0], None, "x", (1, 2), object()])
def test_what_is_neither_array_nor_number_is_refused_by_name(value, x):
    with pytest.raises(KernelArgumentError) as caught:
        launch(scale, 1, 1, (1.0, x, value))
    assert f"'y' of kernel 'scale' is of type {type(value).__name__}" in caught.value.cause
    assert "array" in caught.value.remedy


# -- What is launched at all --------------------------------------------------------------------


@pytest.mark.parametrize("grid", [0, (0,), (3, 0), (1, 1, 0)])
def test_an_empty_grid_launches_nothing(grid, simulated, x):
    seen = []
    with intercept(seen.append):
        launch(scale, grid, 32, (1.0, x, x))
    launch(scale, grid, 32, (1.0, x, x))
    assert not simulated
    assert not seen


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((2**31 - 1, 65535, 65535), 1),
        (1, 1024),
        (1, (1024, 1, 1)),
        (1, (1, 1024)),
        (1, (4, 4, 64)),
        (np.int64(3), (np.int32(32),)),
    ],
)
def test_the_hardwares_limits_are_allowed(grid, block, simulated, x):
    launch(scale, grid, block, (1.0, x, x), 227 * 1024)
    assert len(simulated) == 1


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "cause"),
    [
        ((2**31,), 1, 0, "grid (2147483648,) is 2147483648 long along x"),
        ((1, 65536), 1, 0, "grid (1, 65536) is 65536 long along y"),
        ((1, 1, 65536), 1, 0, "65536 long along z"),
        (-1, 1, 0, "grid (-1,) is -1 long along x"),
        ((1, 1, 1, 1), 1, 0, "4 axes"),
        ((), 1, 0, "grid () has 0 axes"),
        (1.0, 1, 0, "grid is 1.0"),
        ([1, 2], 1, 0, "grid is [1, 2]"),
        (1, None, 0, "block is None"),
        (1, 1025, 0, "block (1025,) is 1025 long along x"),
        (1, (32, 33), 0, "block (32, 33) has 1056 threads"),
        (1, (1, 1, 65), 0, "block (1, 1, 65) is 65 long along z"),
        (1, 0, 0, "block (0,) has 0 threads"),
        (1, (32, 0), 0, "block (32, 0) has 0 threads"),
        (1, -1, 0, "block (-1,) is -1 long"),
        (1, 1, -1, "-1 bytes of dynamic shared memory"),
        (1, 1, 227 * 1024 + 1, "232449 bytes of dynamic shared memory"),
        (0, 1025, 0, "1025 long along x"),
    ],
)
def test_what_no_gpu_can_launch_is_refused(grid, block, shared_bytes, cause, simulated, x):
    with pytest.raises(LaunchError) as caught:
        launch(scale, grid, block, (1.0, x, x), shared_bytes)
    assert cause in caught.value.cause
    assert not simulated


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_arguments_is_told_with_the_right_ones(count, simulated, x):
    with pytest.raises(LaunchError, match=f"'scale' was given {count} arguments") as caught:
        launch(scale, 1, 1, (x,) * count)
    assert "3: factor, x, y" in caught.value.remedy


def test_a_kernel_of_any_number_of_arguments_takes_any(simulated, x):
    launch(anything, 1, 1, (x, x, x))
    assert len(simulated) == 1


def test_a_plain_function_is_no_kernel(x):
    with pytest.raises(LaunchError, match="not a kernel") as caught:
        launch(test_a_plain_function_is_no_kernel, 1, 1, (x,))
    assert "@cuda.jit" in caught.value.remedy


# -- Interception -------------------------------------------------------------------------------


def test_a_callback_sees_each_launch_in_place_of_the_device(simulated):
    seen = []
    host = np.zeros(3)
    with intercept(seen.append):
        launch(scale, (2, 2), 8, (1.0, host, host), 16)
        launch_all([Launch(nothing, (1,), (1,), ())])
    assert [(item.kernel, item.grid, item.block, item.shared_bytes) for item in seen] == [
        (scale, (2, 2), (8,), 16),
        (nothing, (1,), (1,), 0),
    ]
    assert seen[0].args[1] is host
    assert not simulated


def test_interception_ends_with_its_block_even_by_an_error(simulated, x):
    def fail(item):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), intercept(fail):
        launch(scale, 1, 1, (1.0, x, x))
    launch(scale, 1, 1, (1.0, x, x))
    assert len(simulated) == 1


def test_inner_interceptions_hide_outer_ones(x):
    outer, inner = [], []
    with intercept(outer.append):
        with intercept(inner.append):
            launch(scale, 1, 1, (1.0, x, x))
        launch(scale, 1, 1, (1.0, x, x))
    assert (len(outer), len(inner)) == (1, 1)


def test_other_threads_are_not_intercepted(simulated, x):
    seen = []
    with intercept(seen.append):
        thread = threading.Thread(target=launch, args=(scale, 1, 1, (1.0, x, x)))
        thread.start()
        thread.join()
    assert not seen
    assert len(simulated) == 1
