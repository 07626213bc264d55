"""The first kernels of a course: right on every shape, and as cheap as their pages say.

SAXPY in float32 rounds twice (or once, where product and sum are fused), each time by at most half
a unit in the last place of a number no larger than |a x| + |y|; then once more in storage.
"""

import inspect
from collections import Counter

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference, runtime
from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.kernels import basics
from llm_numba.kernels.basics_occupancy import occupancy
from llm_numba.kernels.basics_streams import saxpy_from_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.simulator import simulate

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

every_dtype = pytest.mark.parametrize("name", DTYPES)
saxpy_steps = pytest.mark.parametrize("step", ["thread", "stride"])
histogram_steps = pytest.mark.parametrize("step", ["global", "shared"])


def line(kernel, text):
    """Number of the only line of a kernel's source that contains a text."""
    source, first = inspect.getsourcelines(kernel.py_func)
    (found,) = [first + k for k, each in enumerate(source) if text in each]
    return found


# -- SAXPY -------------------------------------------------------------------------------------


@saxpy_steps
@every_dtype
@pytest.mark.parametrize("length", [1, 31, 32, 33, 127, 257, 4099])
@pytest.mark.parametrize("alpha", [0, -1.5, 1 / 3])
def test_saxpy_rounds_no_more_often_than_it_must(length, alpha, name, step, device):
    x, y = np.random.default_rng(0).normal(size=(2, length)).astype(DTYPES[name])
    on_device = [runtime.to_device(each, device) for each in (x, y)]
    z = runtime.to_host(basics.saxpy(alpha, *on_device, step=step))
    assert z.dtype == x.dtype
    x, y = x.astype(np.float64), y.astype(np.float64)
    expected = reference.saxpy(float(np.float32(alpha)), x, y)
    computing = 2 * UNIT_ROUNDOFF["float32"] * (np.abs(alpha * x) + np.abs(y))
    smallest = 2.0**-25 if name == "float16" else 0  # half the distance of its subnormals
    storing = UNIT_ROUNDOFF[name] * (np.abs(expected) + computing) + smallest
    assert (np.abs(z.astype(np.float64) - expected) <= computing + storing).all()


@saxpy_steps
def test_saxpy_of_more_elements_than_the_grid_has_threads(step, device):
    threads = basics.MAX_BLOCKS * basics.THREADS
    x = np.arange(threads + 777, dtype=np.float32)
    on_device = runtime.to_device(x, device)
    z = runtime.to_host(basics.saxpy(2, on_device, on_device, step=step))
    np.testing.assert_array_equal(z, 3 * x.astype(np.float64))  # below 2**24: exact


@saxpy_steps
def test_saxpy_keeps_what_is_no_number_where_it_is_and_may_overwrite_its_operands(step, device):
    x = np.array([np.nan, np.inf, -np.inf, 1, np.inf], np.float32)
    y = np.array([1, 1, 1, np.nan, -np.inf], np.float32)
    on_device = [runtime.to_device(each, device) for each in (x, y)]
    assert basics.saxpy(2, *on_device, out=on_device[1], step=step) is on_device[1]
    result = runtime.to_host(on_device[1])
    np.testing.assert_array_equal(result, [np.nan, np.inf, -np.inf, np.nan, np.nan])


@saxpy_steps
def test_saxpy_of_nothing(step):
    x = runtime.to_device(np.zeros(0, np.float32), "sim")
    assert basics.saxpy(2, x, x, step=step).shape == (0,)


@saxpy_steps
@pytest.mark.parametrize(("name", "sectors"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_every_request_of_saxpy_is_whole_sectors(name, sectors, step):
    operands = basics.LADDER.operands((4096,), np.dtype(DTYPES[name]), 0)
    (launch,) = basics.LADDER.step(step).plan(**operands)
    alpha, *arrays = launch.args
    args = (alpha, *map(runtime.kernel_view, arrays))
    report = simulate(launch.kernel, launch.grid, launch.block, args)
    # 128 warps: two loads and a store each.
    assert report.global_requests == 3 * 4096 // 32
    assert report.global_sectors == report.ideal_sectors == 3 * 4096 // 32 * sectors


# -- Histogram ---------------------------------------------------------------------------------


@histogram_steps
@pytest.mark.parametrize("bins", [1, 2, 31, 64, 257, 5000])
@pytest.mark.parametrize("length", [1, 33, 1031, 20_000])
def test_every_number_is_counted_in_its_bin(length, bins, step, device):
    values = basics.HISTOGRAM_LADDER.operands((length, bins), np.dtype(np.int32), 0)["values"]
    counts = basics.histogram(runtime.to_device(values, device), bins, step=step)
    expected = Counter(values.tolist())
    assert runtime.to_host(counts).tolist() == [expected[b] for b in range(bins)]


@histogram_steps
def test_what_lies_outside_is_counted_nowhere(step, device):
    values = np.array([-1, 4, 2**31 - 1, -(2**31), 3, 0, 0], np.int32)
    counts = basics.histogram(runtime.to_device(values, device), 4, step=step)
    assert runtime.to_host(counts).tolist() == [2, 0, 0, 1]


@histogram_steps
def test_more_bins_than_shared_memory_holds(step, device):
    bins = basics.MAX_SHARED_BINS + 1
    values = np.array([0, bins - 1, bins - 1, bins], np.int32)
    counts = runtime.to_host(basics.histogram(runtime.to_device(values, device), bins, step=step))
    assert (counts[0], counts[-1], counts.sum()) == (1, 2, 3)


@pytest.mark.parametrize(("bins", "kib"), [(12 * 1024, 48), (12 * 1024 + 1, 0)])
def test_no_block_asks_for_more_shared_memory_than_any_gpu_gives_without_asking(bins, kib):
    values, out = np.zeros(1, np.int32), np.zeros(bins, np.int32)
    plan = basics.HISTOGRAM_LADDER.step("shared").plan(values=values, bins=bins, out=out)
    assert [launch.shared_bytes for launch in plan] == [0, kib * 1024]


@histogram_steps
def test_old_counts_are_forgotten_and_no_values_count_nothing(step, device):
    values = runtime.to_device(np.zeros(3, np.int32), device)
    out = runtime.to_device(np.full(2, 99, np.int32), device)
    assert basics.histogram(values, 2, out=out, step=step) is out
    assert runtime.to_host(out).tolist() == [3, 0]
    basics.histogram(values[:0], 2, out=out, step=step)
    assert runtime.to_host(out).tolist() == [0, 0]


@histogram_steps
def test_no_order_of_threads_loses_a_count(step):
    for seed in range(5):
        operands = basics.HISTOGRAM_LADDER.operands((600, 5), np.dtype(np.int32), 0)
        for launch in basics.HISTOGRAM_LADDER.step(step).plan(**operands):
            simulate(*launch, schedule="random", seed=seed)
        expected = reference.histogram(operands["values"], 5)
        np.testing.assert_array_equal(operands["out"], expected)


def test_private_counts_send_one_addition_a_bin_and_block_in_place_of_one_a_value():
    values = np.random.default_rng(0).integers(0, 32, size=16384, dtype=np.int32)
    requests = {}
    for step, text in (("global", "(counts, value, int32(1))"), ("shared", "(counts, b, mine[b])")):
        plan = basics.HISTOGRAM_LADDER.step(step).plan
        for launch in plan(values=values, bins=32, out=np.zeros(32, np.int32)):
            report = simulate(*launch)
        requests[step] = report.line(line(launch.kernel, text)).global_requests
    # 16384 values are 512 warps; 16 values a thread are 4 blocks, and 32 bins one warp of each.
    assert requests == {"global": 512, "shared": 4}


def test_wrong_arguments_are_named():
    x = runtime.to_device(np.zeros(8, np.float32), "sim")
    short = runtime.to_device(np.zeros(7, np.float32), "sim")
    half = runtime.to_device(np.zeros(8, np.float16), "sim")
    values = runtime.to_device(np.zeros(8, np.int32), "sim")
    for function, arguments, options, named in [
        (basics.saxpy, ("2", x, x), {}, "'alpha' is '2'"),
        (basics.saxpy, (2, x.reshape(2, 4), x), {}, "'x' has 2 axes"),
        (basics.saxpy, (2, x, short), {}, "'y' has shape"),
        (basics.saxpy, (2, x, half), {}, "'y' has dtype float16"),
        (basics.saxpy, (2, x, x), {"out": half}, "'out' has dtype float16"),
        (basics.saxpy, (2, x, x), {"step": "fastest"}, "'step' is 'fastest'"),
        (basics.histogram, (x, 4), {}, "'values' has dtype float32"),
        (basics.histogram, (values[::2], 4), {}, "'values' has strides"),
        (basics.histogram, (values, 0), {}, "'bins' is 0"),
        (basics.histogram, (values, 4), {"out": values}, "'out' has shape"),
        (basics.histogram, (values, 4), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            function(*arguments, **options)


# -- Streams and events ------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("chunks", [1, 2, 7])
@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize("length", [0, 5, 1_000_003])
def test_chunks_in_several_streams_give_what_one_piece_gives(length, streams, chunks):
    x = np.arange(length, dtype=np.float32)
    z, milliseconds = saxpy_from_host(2, x, x, chunks=chunks, streams=streams)
    np.testing.assert_array_equal(z, 3 * x.astype(np.float64))
    assert milliseconds >= 0


def test_streams_refuse_what_they_cannot_copy():
    x = np.zeros(4, np.float32)
    for arguments, options, named in [
        ((2, x.astype(np.float64), x), {}, "'x' is float64 of shape"),
        ((2, x, x[:3]), {}, "'y' is float32 of shape"),
        ((2, x.reshape(2, 2), x), {}, "'x' is float32 of shape"),
        ((2, x, x), {"chunks": 0}, "'chunks' is 0"),
        ((2, x, x), {"streams": 0}, "'streams' is 0"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            saxpy_from_host(*arguments, **options)


@pytest.mark.skipif(runtime.gpu_problem() is None, reason="there is a GPU")
def test_streams_need_a_gpu():
    x = np.zeros(4, np.float32)
    with pytest.raises(DeviceError, match="Kernels cannot run on a GPU here") as raised:
        saxpy_from_host(2, x, x)
    # The simulator has no streams, so its variable is no remedy.
    assert "LLM_NUMBA_SIM" not in raised.value.remedy


# -- Occupancy ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launch", "capability", "blocks", "limited_by"),
    [
        # From NVIDIA's own calculation (cuda_occupancy.h of CUDA 13): threads, registers, shared.
        ((224, 43, 2800), (7, 5), 4, ("warps",)),
        ((481, 99, 0), (7, 5), 1, ("registers",)),
        ((65, 148, 24146), (7, 5), 2, ("shared memory",)),
        ((32, 36, 700), (7, 5), 16, ("blocks",)),
        ((64, 15, 0), (7, 5), 16, ("warps", "blocks")),
        ((32, 16, 6500), (7, 5), 9, ("shared memory",)),
        ((481, 8, 1400), (8, 0), 4, ("warps",)),
        ((96, 246, 2100), (8, 0), 2, ("registers",)),
        ((1, 204, 74011), (8, 0), 2, ("shared memory",)),
        ((33, 29, 4200), (8, 0), 32, ("warps", "blocks", "registers", "shared memory")),
        ((32, 211, 3500), (8, 6), 8, ("registers",)),
        ((448, 50, 64038), (8, 6), 1, ("shared memory",)),
        ((33, 15, 4200), (8, 6), 16, ("blocks",)),
        ((801, 57, 93957), (8, 7), 1, ("warps", "registers", "shared memory")),
        ((1024, 15, 64038), (8, 7), 1, ("warps",)),
        ((608, 8, 34119), (8, 9), 2, ("warps", "shared memory")),
        ((1, 22, 0), (8, 9), 24, ("blocks",)),
        ((897, 64, 14173), (8, 9), 1, ("warps", "registers")),
        ((353, 120, 93957), (9, 0), 1, ("registers",)),
        ((513, 1, 203660), (9, 0), 1, ("shared memory",)),
        ((32, 64, 4200), (9, 0), 32, ("blocks", "registers")),
        ((449, 43, 1400), (10, 0), 2, ("registers",)),
        ((256, 253, 193687), (10, 0), 1, ("registers", "shared memory")),
        ((513, 36, 173741), (10, 3), 1, ("shared memory",)),
        ((257, 50, 14173), (12, 0), 4, ("registers",)),
        ((97, 211, 44092), (12, 0), 2, ("registers", "shared memory")),
    ],
)
def test_occupancy_is_what_nvidia_calculates(launch, capability, blocks, limited_by):
    found = occupancy(*launch, capability)
    assert found.blocks == blocks
    assert found.limited_by == limited_by
    assert found.warps == blocks * -(-launch[0] // 32)
    assert found.fraction == found.warps / LIMITS[capability].warps


def test_a_block_that_fits_nowhere_is_not_resident():
    assert occupancy(1024, 65, 0, (9, 0)).blocks == 0
    assert occupancy(1024, 65, 0, (9, 0)).limited_by == ("registers",)
    assert occupancy(32, 32, 227 * 1024 + 1, (9, 0)).limited_by == ("shared memory",)
    assert occupancy(32, 32, 227 * 1024, (9, 0)).blocks == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 32, 0, (9, 0)), "'threads_per_block' is 0"),
        ((1025, 32, 0, (9, 0)), "'threads_per_block' is 1025"),
        ((256, 256, 0, (9, 0)), "'registers' is 256"),
        ((256, 32, -1, (9, 0)), "'shared_bytes' is -1"),
        ((256, 32, 0, (6, 1)), "'capability' is (6, 1)"),
    ],
)
def test_what_no_kernel_can_ask_for_is_refused(arguments, named):
    with pytest.raises(KernelArgumentError) as error:
        occupancy(*arguments)
    assert named in str(error.value)
