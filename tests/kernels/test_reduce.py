"""Row sums and maxima: every step against the float64 reference, and their costs by hand.

Bound of a sum: the longest chain of additions is that of one warp a row, N / 32 terms and then
5 exchanges; a chain of n float32 additions errs by at most n u times the sum of magnitudes. 16-byte
loads change the order within a chain, by fewer than 16 terms. Maxima and integers are exact.
"""

import inspect

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference, runtime
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import reduce
from llm_numba.runtime.offline import compile_to_ptx, compiler_problem, signature_of
from llm_numba.simulator import simulate

UNIT_ROUNDOFF = 2.0**-24
STEPS = [step.name for step in reduce.LADDER.steps]
SHAPES = [(1, 1), (3, 31), (2, 32), (9, 33), (5, 127), (3, 257), (2, 1031), (1, 4099), (300, 5)]
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int32": np.int32,
}

every_step = pytest.mark.parametrize("step", STEPS)
every_dtype = pytest.mark.parametrize("name", DTYPES)


def numbers(shape, name, seed=0):
    rng = np.random.default_rng(seed)
    if name == "int32":
        return rng.integers(-(2**31), 2**31, size=shape, dtype=np.int32)
    return rng.normal(size=shape).astype(DTYPES[name])


def exact(x):
    return x if x.dtype == np.int32 else x.astype(np.float64)


def assert_near(total, x):
    if x.dtype == np.int32:
        np.testing.assert_array_equal(total, reference.row_sum(x))
        return
    chain = x.shape[1] / 32 + 5 + 16
    bound = chain * UNIT_ROUNDOFF * np.abs(exact(x)).sum(axis=1)
    assert (np.abs(total - reference.row_sum(exact(x))) <= bound).all()


@every_step
@every_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_and_maximum_of_every_row(shape, name, step, device):
    if device == "cuda" and step == "redux" and not has_redux():
        pytest.skip("redux.sync came with compute capability 8.0")
    x = numbers(shape, name)
    on_device = runtime.to_device(x, device)
    total = runtime.to_host(reduce.row_sum(on_device, step=step))
    largest = runtime.to_host(reduce.row_max(on_device, step=step))
    result_dtype = np.int32 if name == "int32" else np.float32
    assert total.dtype == largest.dtype == result_dtype
    assert_near(total, x)
    np.testing.assert_array_equal(largest, reference.row_max(exact(x)))


def has_redux():
    from numba import cuda

    return cuda.get_current_device().compute_capability >= (8, 0)


@every_step
def test_long_rows_on_a_gpu_and_shorter_ones_in_the_simulator(step, device):
    shape = (3, 131_071) if device == "cuda" else (1, 20_011)
    x = numbers(shape, "bfloat16")
    on_device = runtime.to_device(x, device)
    assert_near(runtime.to_host(reduce.row_sum(on_device, step=step)), x)
    largest = runtime.to_host(reduce.row_max(on_device, step=step))
    np.testing.assert_array_equal(largest, reference.row_max(exact(x)))


@every_step
@every_dtype
def test_rows_without_entries_and_matrices_without_rows(name, step):
    x = runtime.to_device(np.zeros((3, 0), DTYPES[name]), "sim")
    assert runtime.to_host(reduce.row_sum(x, step=step)).tolist() == [0] * 3
    least = -(2**31) if name == "int32" else -np.inf
    assert runtime.to_host(reduce.row_max(x, step=step)).tolist() == [least] * 3
    x = runtime.to_device(np.zeros((0, 7), DTYPES[name]), "sim")
    assert reduce.row_sum(x, step=step).shape == reduce.row_max(x, step=step).shape == (0,)


@every_step
@pytest.mark.parametrize("place", [0, 31, 32, 255, 256, 299])
def test_nan_and_infinities_are_found_wherever_they_are(place, step, device):
    x = np.ones((4, 300), np.float32)
    x[0, place] = np.nan
    x[1, place] = np.inf
    x[2, place] = -np.inf
    x[3] = -np.inf
    on_device = runtime.to_device(x, device)
    total = runtime.to_host(reduce.row_sum(on_device, step=step))
    np.testing.assert_array_equal(total, [np.nan, np.inf, -np.inf, -np.inf])
    largest = runtime.to_host(reduce.row_max(on_device, step=step))
    np.testing.assert_array_equal(largest, [np.nan, np.inf, 1, -np.inf])


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("skipped", range(1, 9))
def test_a_view_may_begin_between_two_multiples_of_16_bytes(skipped, name, device):
    flat = numbers(8 + 3 * 101, name)
    x = flat[skipped : skipped + 303].reshape(3, 101)
    view = runtime.to_device(flat, device)[skipped : skipped + 303].reshape(3, 101)
    assert_near(runtime.to_host(reduce.row_sum(view, step="vectorised")), x)


@every_step
def test_no_order_of_threads_changes_a_bit(step):
    ladder = reduce.LADDER
    results = set()
    for seed in range(6):
        operands = ladder.operands((2, 300), np.dtype(np.float32), 0)
        for launch in ladder.step(step).plan(**operands):
            simulate(*launch, schedule="random", seed=seed)
        results.add(operands["out"].tobytes())
    assert len(results) == 1


def test_the_result_may_go_where_the_caller_wants_it(device):
    x = runtime.to_device(numbers((4, 9), "float32"), device)
    out = runtime.empty((4,), "float32", like=x)
    assert reduce.row_sum(x, out=out) is out
    assert_near(runtime.to_host(out), runtime.to_host(x))


@pytest.mark.parametrize("function", [reduce.row_sum, reduce.row_max])
def test_wrong_arguments_are_named(function):
    x = runtime.to_device(np.zeros((4, 6), np.float32), "sim")
    short = runtime.to_device(np.zeros(3, np.float32), "sim")
    half = runtime.to_device(np.zeros(4, np.float16), "sim")
    for arguments, options, named in [
        ((x[0],), {}, "'x' has 1 axis"),
        ((x.astype(np.float64),), {}, "'x' has dtype float64"),
        ((x[:, ::2],), {}, "'x' has strides"),
        ((np.zeros((4, 6), np.float32),), {}, "'x' is a NumPy array"),
        ((x,), {"out": short}, "'out' has shape"),
        ((x,), {"out": half}, "'out' has dtype float16"),
        ((x,), {"step": "fastest"}, "'step' is 'fastest'"),
    ]:
        with pytest.raises(KernelArgumentError, match=named):
            function(*arguments, **options)


# -- What it costs, counted by hand ------------------------------------------------------------


def report_of(step, name, shape=(1, 1024)):
    operands = reduce.LADDER.operands(shape, np.dtype(DTYPES[name]), 0)
    (launch,) = reduce.LADDER.step(step).plan(**operands)
    args = (runtime.kernel_view(operands["x"]), operands["out"], launch.args[2])
    return simulate(launch.kernel, launch.grid, launch.block, args)


def line(function, text):
    """Number of the only line of a function's source that contains a text."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [first + k for k, source in enumerate(lines) if text in source]
    return found


@pytest.mark.parametrize(
    ("step", "barriers", "wavefronts"),
    [("tree", 9, 45), ("block", 1, 9), ("redux", 1, 9), ("vectorised", 1, 9)],
)
def test_barriers_and_wavefronts_of_one_block(step, barriers, wavefronts):
    report = report_of(step, "int32")
    assert report.barriers == barriers
    assert report.shared_wavefronts == report.ideal_wavefronts == wavefronts


def test_the_tree_reads_without_conflict_at_every_halving():
    report = report_of("tree", "float32")
    fold = report.line(line(reduce._tree, "combine(values[t], values[t + half])"))
    # 4, 2, 1, 1, 1, 1, 1, 1 warps: two loads and a store each.
    assert fold.shared_requests == fold.shared_wavefronts == 3 * 12
    assert fold.max_bank_ways == 1


def test_a_warp_a_row_needs_neither_shared_memory_nor_barriers():
    report = report_of("warp", "float32")
    assert (report.barriers, report.shared_requests, report.shared_bytes) == (0, 0, 0)


@pytest.mark.parametrize("step", ["tree", "warp", "block"])
@pytest.mark.parametrize(("name", "sectors"), [("float32", 4), ("float16", 2), ("int32", 4)])
def test_neighbours_read_neighbours(step, name, sectors):
    report = report_of(step, name)
    load = report.line(line(getattr(reduce, f"_{step}"), "ptx.widen(x[row, n])"))
    assert load.global_requests == 1024 // 32
    assert load.global_sectors == load.ideal_sectors == 1024 // 32 * sectors


@pytest.mark.parametrize(("name", "requests"), [("float32", 8), ("bfloat16", 4), ("int32", 8)])
def test_16_bytes_a_thread_take_a_quarter_or_an_eighth_of_the_requests(name, requests):
    report = report_of("vectorised", name)
    load = report.line(line(reduce._vectorised, "ptx.load16(x, n)"))
    assert load.global_requests == requests
    assert load.global_sectors == load.ideal_sectors == requests * 16


def test_a_row_that_begins_off_16_bytes_is_loaded_one_by_one_at_its_ends_only():
    # Row 1 of 1027 float32 begins 3 elements behind a multiple of 4: 1 + 1024 + 2 elements.
    report = report_of("vectorised", "float32", (2, 1027))
    head = report.line(line(reduce._vectorised, "ptx.widen(x[row, t])"))
    tail = report.line(line(reduce._vectorised, "ptx.widen(x[row, last - begin + t])"))
    middle = report.line(line(reduce._vectorised, "ptx.load16(x, n)"))
    assert (head.global_requests, tail.global_requests) == (1, 2)
    assert middle.global_requests == 2 * 8


@pytest.mark.ptx
@pytest.mark.parametrize(
    ("step", "instruction"), [("block", "shfl.sync.bfly"), ("redux", "redux.sync.add.s32")]
)
def test_a_block_reduces_integers_twice_by_the_instruction_that_the_step_is_about(
    step, instruction, request
):
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)
    operands = reduce.LADDER.operands((1, 64), np.dtype(np.int32), 0)
    (launch,) = reduce.LADDER.step(step).plan(**operands)
    text = compile_to_ptx(launch.kernel, signature_of(launch), (8, 0))
    by_shuffles = step == "block"
    assert text.count("shfl.sync") == (10 if by_shuffles else 0)
    assert text.count("redux.sync") == (0 if by_shuffles else 2)
    assert text.count(instruction) == (10 if by_shuffles else 2)
