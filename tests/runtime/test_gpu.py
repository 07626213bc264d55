"""Launches on a real GPU: streams, graphs, shared memory above 48 KiB, and the host's time."""

import statistics
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from llm_numba import ops
from llm_numba.errors import KernelArgumentError, LaunchError
from llm_numba.runtime import (
    capture,
    empty,
    empty_like,
    kind_of,
    launch,
    storage_dtype,
    to_device,
    to_host,
)

pytestmark = pytest.mark.gpu


@cuda.jit
def add(amount, x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += amount


@cuda.jit
def mirror(x):
    buffer = cuda.shared.array(0, np.float32)
    i = cuda.threadIdx.x
    n = cuda.blockDim.x
    # The far end of the buffer: memory that was not granted is not there.
    last = x.size - 1
    buffer[last - i] = x[i]
    cuda.syncthreads()
    x[i] = buffer[last - (n - 1 - i)]


@cuda.jit
def place(row, column, matrix):
    matrix[row, column] = 1


@cuda.jit
def hold(naps, x):
    for _ in range(naps):
        cuda.nanosleep(1_000_000)
    x[0] = 1


@cuda.jit
def meet(x):
    grid = cuda.cg.this_grid()
    if cuda.grid(1) == 0:
        x[0] = 7
    grid.sync()
    x[cuda.grid(1) + 1] = x[0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8", "bool"])
def test_there_and_back_again(dtype):
    host = np.random.default_rng(0).integers(0, 2, (5, 3)).astype(dtype)
    there = to_device(host)
    assert (kind_of(there), storage_dtype(there)) == ("cuda", dtype)
    back = to_host(there)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)
    new = empty((2, 3), dtype, like=there)
    assert (kind_of(new), new.shape, new.dtype) == ("cuda", (2, 3), host.dtype)


@pytest.mark.parametrize(
    ("amount", "dtype", "result"),
    [
        (2, "int32", 3),
        (np.int32(2), "int64", 3),
        (0.5, "float64", 1.5),
        (np.float32(0.5), "float32", 1.5),
        (np.float16(0.5), "float16", 1.5),
        (np.uint8(200), "uint8", 201),
        (True, "int32", 2),
        (np.bool_(True), "int32", 2),
    ],
)
def test_scalars_of_each_type_arrive(amount, dtype, result):
    x = to_device(np.ones(37, dtype))
    launch(add, 2, 32, (amount, x))
    np.testing.assert_array_equal(to_host(x), np.full(37, result, dtype))


def test_a_kernel_is_given_the_bits_of_bfloat16():
    x = to_device(np.ones(3, ml_dtypes.bfloat16))
    launch(add, 1, 32, (1, x))
    assert to_host(x).view(np.uint16).tolist() == [0x3F81] * 3


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[::2, 1::3]])
def test_strides_of_views_are_kept(view):
    x = to_device(np.zeros((8, 9), np.float32))
    expected = np.zeros((8, 9), np.float32)
    launch(place, 1, 1, (2, 1, view(x)))
    view(expected)[2, 1] = 1
    np.testing.assert_array_equal(to_host(x), expected)


def test_an_array_without_elements_is_an_argument_too():
    x = to_device(np.zeros((0, 4), np.float32).reshape(-1))
    launch(add, 1, 32, (np.float32(1), x))
    assert to_host(x).shape == (0,)


def test_shared_memory_above_48_kib_is_granted():
    import cupy

    limit = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    for shared_bytes in (16 * 1024, 48 * 1024, 60 * 1024, limit, 48 * 1024, 60 * 1024, limit):
        n = shared_bytes // 4
        x = to_device(np.arange(n, dtype=np.float32))
        launch(mirror, 1, 256, (x,), shared_bytes)
        assert to_host(x)[:256].tolist() == list(range(255, -1, -1))


def test_more_shared_memory_than_there_is_is_refused():
    import cupy

    limit = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    if limit == 227 * 1024:
        pytest.skip("this GPU has as much as any, so that the common limit stands before its own")
    with pytest.raises(LaunchError, match="GPU 0 gives a block"):
        launch(mirror, 1, 256, (to_device(np.zeros(256, np.float32)),), limit + 4)


def test_a_launch_goes_to_cupys_current_stream_and_does_not_wait():
    import cupy

    x = to_device(np.zeros(1, np.float32))
    launch(hold, 1, 1, (0, x))
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        launch(hold, 1, 1, (300, x))
        assert not stream.done
        assert cupy.cuda.Stream.null.done
        stream.synchronize()
    assert to_host(x)[0] == 1


@pytest.mark.parametrize("library", ["cupy", "numba"])
def test_a_launch_goes_to_the_stream_that_is_named(library):
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    named = stream if library == "cupy" else cuda.external_stream(stream.ptr)
    x = to_device(np.zeros(1, np.float32))
    launch(hold, 1, 1, (0, x))
    cupy.cuda.Device().synchronize()
    launch(hold, 1, 1, (300, x), stream=named)
    assert not stream.done
    stream.synchronize()


def test_a_captured_launch_runs_when_the_graph_does():
    x = to_device(np.zeros(1000, np.float32))
    # Compiles, and grants the shared memory, before the capture begins.
    launch(add, 8, 128, (np.float32(0), x), 64 * 1024)

    def three_times():
        for _ in range(3):
            launch(add, 8, 128, (np.float32(1), x), 64 * 1024)

    graph = capture(three_times)
    for _ in range(5):
        graph.launch()
    np.testing.assert_array_equal(to_host(x), np.full(1000, 15))


def test_a_graph_owns_what_its_launches_allocated():
    x = to_device(np.zeros(1000, np.float32))

    def work():
        launch(add, 8, 128, (np.float32(1), empty_like(x)), 64 * 1024)

    work()
    graph = capture(work)
    # Whoever allocates now must not be given that memory.
    others = [to_device(np.zeros(1000, np.float32)) for _ in range(16)]
    graph.launch()
    for other in others:
        assert not to_host(other).any()


def test_blocks_of_a_grid_meet():
    x = to_device(np.zeros(1 + 4 * 32, np.int32))
    launch(meet, 4, 32, (x,))
    np.testing.assert_array_equal(to_host(x), np.full(1 + 4 * 32, 7))


def test_any_thread_may_launch():
    x = to_device(np.zeros(4, np.float32))
    launch(add, 1, 32, (np.float32(1), x))
    failures = []

    def work():
        try:
            launch(add, 1, 32, (np.float32(1), x))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    np.testing.assert_array_equal(to_host(x), np.full(4, 2))


def test_arrays_of_two_places_are_refused():
    on_gpu = to_device(np.zeros((2, 2), np.float32))
    simulated = to_device(np.zeros(2, np.int32), "sim")
    with pytest.raises(KernelArgumentError, match="'matrix' of kernel 'place'"):
        launch(place, 1, 1, (simulated, 0, on_gpu))


@pytest.mark.parametrize("rows", [1, 70])
def test_a_product_that_is_repeated_is_that_of_its_own_operands(rows):
    """Small whole numbers: float32 is exact, in whatever order it adds."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, weight, residual = (
            rng.integers(-4, 5, shape).astype(np.float32)
            for shape in ((rows, 96), (40, 96), (rows, 40))
        )
        there = [to_device(each) for each in (x, weight, residual)]
        found = ops.linear(*there[:2], residual=there[2])
        np.testing.assert_array_equal(to_host(found), x @ weight.T + residual)


@pytest.mark.unsanitised(reason="launches cost the host what the checker adds to them")
def test_a_launch_costs_the_host_less_than_numbas_own():
    x = to_device(np.zeros(32, np.float32))
    theirs = cuda.as_cuda_array(x, sync=False)
    configured = add[128, 32]

    def microseconds(call):
        samples = []
        for _ in range(2000):
            begin = time.perf_counter()
            call()
            samples.append(1e6 * (time.perf_counter() - begin))
        cuda.synchronize()
        return statistics.median(samples)

    one = np.float32(1)
    launch(add, 128, 32, (one, x))
    configured(one, theirs)
    ours = microseconds(lambda: launch(add, 128, 32, (one, x)))
    numbas = microseconds(lambda: configured(one, theirs))
    assert ours < numbas, f"{ours:.1f} us, Numba's own launch {numbas:.1f} us"
