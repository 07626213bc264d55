"""The way in: arguments, limits, residency, what is checked when."""

from pathlib import Path

import numpy as np
import pytest
from numba import cuda, float32

from llm_numba.errors import LLMNumbaError
from llm_numba.simulator import (
    BarrierDivergenceError,
    DeadlockError,
    KernelAssertionError,
    RaceError,
    UninitializedReadError,
    UnsupportedError,
    simulate,
    twin,
)


@cuda.jit
def double(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] *= 2


def test_arrays_are_written_in_place_and_the_report_says_what_ran():
    x = np.arange(100, dtype=np.float32)
    report = simulate(double, 4, 32, (x,))
    np.testing.assert_array_equal(x, 2 * np.arange(100))
    assert (report.kernel, report.grid, report.block) == ("double", (4, 1, 1), (32, 1, 1))
    assert report.lines[0].file == __file__


@cuda.jit(device=True)
def clipped(value):
    return value if value > 0 else float32(0)  # float64


@cuda.jit
def sum_of_clipped(x, out):
    total = 0.0
    for i in range(x.size):
        total += clipped(x[i])  # float64
    out[0] = float32(total)  # float64
    out[1] = clipped(x[0]) * float32(2)


def test_a_report_names_the_lines_that_compute_in_float64():
    report = simulate(sum_of_clipped, 1, 1, (np.ones(4, np.float32), np.zeros(2, np.float32)))
    source = Path(__file__).read_text().splitlines()
    marked = [number for number, line in enumerate(source, 1) if line.endswith("# float64")]
    assert report.float64 == [(__file__, number) for number in marked]


@cuda.jit
def coordinates(out):
    i, j, k = cuda.grid(3)
    x, y, z = cuda.gridsize(3)
    block = (cuda.blockIdx.z * cuda.gridDim.y + cuda.blockIdx.y) * cuda.gridDim.x + cuda.blockIdx.x
    thread = (
        cuda.threadIdx.z * cuda.blockDim.y + cuda.threadIdx.y
    ) * cuda.blockDim.x + cuda.threadIdx.x
    out[k, j, i] = ((z * y * x) * 1000 + block) * 1000 + thread


def test_three_axes():
    grid, block = (2, 3, 4), (4, 2, 3)
    out = np.zeros([g * b for g, b in zip(grid, block, strict=True)][::-1], np.int64)
    simulate(coordinates, grid, block, (out,))
    for k, j, i in np.ndindex(out.shape):
        place = [divmod(at, size) for at, size in zip((i, j, k), block, strict=True)]
        blocks, threads = zip(*place, strict=True)
        number = (blocks[2] * 3 + blocks[1]) * 2 + blocks[0]
        thread = (threads[2] * 2 + threads[1]) * 4 + threads[0]
        assert out[k, j, i] == (out.size * 1000 + number) * 1000 + thread


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (0, 32, "grid=0 is no launch shape"),
        (1, (4, 0), r"block=\(4, 0\) is no launch shape"),
        ((1, 1, 1, 1), 32, "is no launch shape"),
        (1, 1.5, "is no launch shape"),
        (1, 1025, "block of 1025 threads"),
        (1, (1, 1, 65), "block of 1 x 1 x 65 threads"),
    ],
)
def test_launch_shapes_that_the_hardware_has_not(grid, block, message):
    with pytest.raises(UnsupportedError, match=message):
        simulate(double, grid, block, (np.zeros(4),))


def test_things_that_are_no_kernel_no_argument_or_no_schedule():
    with pytest.raises(UnsupportedError, match="is no kernel"):
        simulate(len, 1, 1, (np.zeros(4),))
    with pytest.raises(UnsupportedError, match="cannot take an argument of type dict"):
        simulate(double, 1, 1, ({},))
    with pytest.raises(UnsupportedError, match="There is no schedule 'fair'"):
        simulate(double, 1, 1, (np.zeros(4),), schedule="fair")
    with pytest.raises(UnsupportedError, match="300000 bytes of shared memory"):
        simulate(double, 1, 1, (np.zeros(4),), shared_bytes=300_000)
    with pytest.raises(UnsupportedError, match=r"2 arguments.*takes 1"):
        simulate(double, 1, 1, (np.zeros(4), 1))


@cuda.jit
def with_unknown_name(x):
    i = cuda.grid(1)
    x[i] = scale  # noqa: F821


@cuda.jit
def with_unknown_attribute(x):
    i = cuda.grid(1)
    x[i] = cuda.gridd(1)


@pytest.mark.parametrize("kernel", [with_unknown_name, with_unknown_attribute])
def test_an_unknown_name_is_refused_with_its_line(kernel):
    line = kernel.py_func.__code__.co_firstlineno + 3  # decorator, head, grid, store
    with pytest.raises(UnsupportedError, match=rf"test_simulate\.py:{line}: .*'(scale|gridd)'"):
        simulate(kernel, 1, 1, (np.zeros(4),))


def test_every_fault_is_an_error_with_cause_and_remedy():
    with pytest.raises(LLMNumbaError) as caught:
        simulate(double, 1, 1, ({},))
    assert caught.value.cause
    assert caught.value.remedy


@cuda.jit
def asserts(x):
    i = cuda.grid(1)
    if x[i] <= 0:
        raise ValueError("x must be positive")
    x[i] = 1


def test_an_exception_is_raised_with_its_line_and_threads():
    with pytest.raises(KernelAssertionError, match="and 1 more raised ValueError") as caught:
        simulate(asserts, 1, 8, (np.array([1, 1, 1, 0, 1, 0, 1, 1]),))
    assert "thread 3 of block 0" in str(caught.value)
    assert "x must be positive" in str(caught.value)
    assert caught.value.file == __file__
    assert caught.value.line == asserts.py_func.__code__.co_firstlineno + 4


@cuda.jit
def prints(x):
    i = cuda.grid(1)
    if i % 2:
        print("thread", i, "has", x[i])


def test_what_threads_print_comes_with_the_report(capsys):
    report = simulate(prints, 2, 2, (np.array([0.5, 1.5, 2.5, 3.5]),))
    assert report.printed == "thread 1 has 1.5\nthread 3 has 3.5\n"


@cuda.jit
def all_blocks_write_one(out, n):
    i = cuda.grid(1)
    if i == 0 or i == n - 1:
        out[0] = i


def test_blocks_that_never_run_together_race_all_the_same():
    with pytest.raises(RaceError, match=r"block 1023 writes.*thread 0 of block 0 wrote"):
        simulate(all_blocks_write_one, 1024, 256, (np.zeros(1, np.int64), 1024 * 256))


@cuda.jit
def waits_for_a_later_block(flag, out):
    block = cuda.blockIdx.x
    if block == 0:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
        out[0] = 1
    elif block == cuda.gridDim.x - 1:
        cuda.atomic.exch(flag, 0, 1)


def test_a_block_may_wait_only_for_blocks_that_run_beside_it():
    flag, out = np.zeros(1, np.int32), np.zeros(1)
    simulate(waits_for_a_later_block, 8, 32, (flag, out))
    assert out[0] == 1
    with pytest.raises(DeadlockError, match="wait in a loop"):
        simulate(waits_for_a_later_block, 4000, 32, (np.zeros(1, np.int32), out))


@cuda.jit
def unwritten(out):
    tile = cuda.shared.array(32, float32)
    out[cuda.threadIdx.x] = tile[cuda.threadIdx.x]


def test_what_is_checked_when():
    out = np.zeros(32, np.float32)
    for options in ({}, {"explain": False, "check": True}, {"schedule": "random"}):
        with pytest.raises(UninitializedReadError):
            simulate(unwritten, 1, 32, (out,), **options)
    simulate(unwritten, 1, 32, (out,), explain=False)
    # Nobody should be able to mistake such memory for zeros.
    assert np.isnan(out).all()
    report = simulate(unwritten, 1, 32, (out,), check=False)
    assert report.shared_requests == 1


@cuda.jit
def early_return(x):
    i = cuda.grid(1)
    if i >= x.size:
        return
    cuda.syncthreads()
    x[i] = 1


def test_barriers_are_checked_always():
    with pytest.raises(BarrierDivergenceError, match="thread 20 of block 0 and 11 more returned"):
        simulate(early_return, 1, 32, (np.zeros(20),), explain=False)


def test_a_stranger_may_bring_a_twin_of_his_own():
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def rotate(context, value, distance):
        def codegen(context, builder, signature, arguments):
            assembly = ir.FunctionType(ir.IntType(32), [ir.IntType(32)] * 2)
            return builder.asm(
                assembly, "shf.l.wrap.b32 $0, $1, $1, $2;", "=r,r,r", arguments, False
            )

        return types.uint32(types.uint32, types.uint32), codegen

    @cuda.jit
    def kernel(x):
        x[cuda.grid(1)] = rotate(x[cuda.grid(1)], np.uint32(8))

    x = np.array([0x12345678, 1], np.uint32)
    with pytest.raises(UnsupportedError, match="no twin of `rotate`"):
        simulate(kernel, 1, 2, (x,))

    @twin(rotate)
    def _(lanes, value, distance):
        return (value << distance | value >> (32 - distance)) & 0xFFFFFFFF

    simulate(kernel, 1, 2, (x,))
    assert x.tolist() == [0x34567812, 256]


def product_and_sum(a, b, c, out):
    out[0] = a * b + c


@pytest.mark.parametrize("first", [True, False])
def test_two_kernels_of_one_function_keep_their_options(first):
    # (1 + 2^-12)^2 - 1 - 2^-11 is 2^-24, which is lost if the product is rounded by itself.
    a, c = np.float32(1 + 2.0**-12), np.float32(-1 - 2.0**-11)
    found = {}
    for contracted in (first, not first):
        kernel = cuda.jit(product_and_sum) if contracted else cuda.jit(product_and_sum, opt=False)
        out = np.zeros(1, np.float32)
        simulate(kernel, 1, 1, (a, a, c, out))
        found[contracted] = float(out[0])
    assert found == {True: 2.0**-24, False: 0.0}


def test_constants_of_a_module_are_frozen_and_read_only_views_work():
    table = np.array([3, 1, 2])

    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = x[table[i]]

    x, out = np.array([10, 20, 30, 40]), np.zeros(3, np.int64)
    x.setflags(write=False)
    simulate(kernel, 1, 3, (x, out))
    assert out.tolist() == [40, 20, 30]
