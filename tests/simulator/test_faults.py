"""Planted faults are found, named by file, line and threads; corrected kernels run clean."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import cuda, float32

from llm_numba.simulator import (
    BarrierDivergenceError,
    DeadlockError,
    OutOfBoundsError,
    RaceError,
    SimulationError,
    UninitializedReadError,
    UnsupportedError,
    simulate,
)

FAULTS = Path(__file__).parent / "faults"
MARK = "# FAULT"
TILE = 32
SEEDS = range(50)
# The orders in which corrected kernels run: some always, the rest with the slow tests.
FEW_AND_MANY = [range(12), pytest.param(range(12, 50), marks=pytest.mark.slow)]
# A wrong kernel ends at its first fault; a few orders are enough to see that none of them hides it.
WRONG_SEEDS = range(5)


def load_package(directory: Path) -> None:
    """Import a directory of kernels as a package of its own."""
    spec = importlib.util.spec_from_file_location(
        directory.name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    sys.modules[directory.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[directory.name])


load_package(FAULTS)

CLASSES = {
    "shared_races": RaceError,
    "global_races": RaceError,
    "barriers": BarrierDivergenceError,
    "bounds": OutOfBoundsError,
    "uninitialised": UninitializedReadError,
    "deadlocks": DeadlockError,
    "unsupported": UnsupportedError,
}
MODULES = {name: importlib.import_module(f"faults.{name}") for name in CLASSES}
CASES = [
    pytest.param(case, error, id=f"{name}: {case.name}")
    for name, error in CLASSES.items()
    for case in MODULES[name].CASES
]
BY_CHANCE = MODULES["deadlocks"].BY_CHANCE


def run(kernel, case, schedule="ordered", seed=0) -> np.ndarray:
    args = case.args()
    simulate(kernel, case.grid, case.block, args, case.shared_bytes, schedule=schedule, seed=seed)
    return args[-1]


def faults_of(kernel) -> set[int]:
    """Return the numbers of the marked lines of a kernel."""
    lines, first = inspect.getsourcelines(kernel.py_func)
    return {first + i for i, line in enumerate(lines) if MARK in line}


def named_lines(error: SimulationError, file: str) -> set[int]:
    """Return the line of an error, and those that its message names besides."""
    text = str(error)
    assert text.startswith(f"{file}:{error.line}: "), text
    return {int(number) for number in re.findall(r"(?:\.py:|\bline )(\d+)", text)}


def named_threads(error: SimulationError, case) -> list[int]:
    """Return the threads that a message names, numbered through the grid."""
    block = (*np.atleast_1d(case.block), 1, 1)[:3]
    grid = (*np.atleast_1d(case.grid), 1, 1)[:3]
    size = int(np.prod(block))
    return [
        number(block_index, grid) * size + number(thread_index, block)
        for thread_index, block_index in re.findall(
            r"thread (\d+|\([\d, ]+\)) of block (\d+|\([\d, ]+\))", str(error)
        )
    ]


def number(index: str, extents: tuple[int, ...]) -> int:
    """Turn "(x, y)" into x + y * width, as threads and blocks are counted."""
    total, stride = 0, 1
    for part, extent in zip(re.findall(r"\d+", index), extents, strict=False):
        total += int(part) * stride
        stride *= int(extent)
    return total


def caught(case, error, schedule="ordered", seed=0) -> SimulationError:
    with pytest.raises(error) as info:
        run(case.wrong, case, schedule, seed)
    assert type(info.value) is error
    return info.value


def assert_names_the_fault(fault: SimulationError, case) -> None:
    file = case.wrong.py_func.__code__.co_filename
    assert fault.file == file
    assert fault.line in faults_of(case.wrong), str(fault)
    assert named_lines(fault, file) <= faults_of(case.wrong), str(fault)


@pytest.mark.parametrize(("case", "error"), CASES)
def test_a_planted_fault_is_found_and_named(case, error):
    fault = caught(case, error)
    assert_names_the_fault(fault, case)
    threads = named_threads(fault, case)
    assert set(threads) <= set(case.threads), str(fault)
    if error is RaceError:
        assert len(set(threads)) == 2, f"two threads race: {fault}"
    elif error is not UnsupportedError:
        assert threads, f"no thread is named: {fault}"


@pytest.mark.parametrize(("case", "error"), CASES)
def test_no_order_of_threads_hides_a_fault(case, error):
    for seed in WRONG_SEEDS:
        fault = caught(case, error, "random", seed)
        assert_names_the_fault(fault, case)
        assert set(named_threads(fault, case)) <= set(case.threads), str(fault)


@pytest.mark.parametrize(
    "case", [*(pytest.param(*case.values[:1], id=case.id) for case in CASES), BY_CHANCE]
)
@pytest.mark.parametrize("seeds", FEW_AND_MANY, ids=["few", "many"])
def test_the_corrected_kernel_is_clean_in_any_order(case, seeds):
    assert not faults_of(case.right)
    want = case.want(*case.args())
    np.testing.assert_array_equal(run(case.right, case), want)
    for seed in seeds:
        np.testing.assert_array_equal(run(case.right, case, "random", seed), want)


def test_a_deadlock_that_needs_a_certain_order_is_found_in_some():
    found = 0
    for seed in SEEDS:
        try:
            run(BY_CHANCE.wrong, BY_CHANCE, "random", seed)
        except DeadlockError as fault:
            assert_names_the_fault(fault, BY_CHANCE)
            found += 1
    assert 0 < found < len(SEEDS)


def test_each_class_has_planted_faults_enough():
    for name, module in MODULES.items():
        assert len(module.CASES) >= 5, name


@cuda.jit
def padded_in_place(x):
    tile = cuda.shared.array((TILE, TILE + 1), float32)
    tile[0, 0] = x[0]


@cuda.jit
def as_long_as_x(x):
    kept = cuda.local.array(x.size, float32)
    kept[0] = x[0]


@pytest.mark.parametrize("kernel", [padded_in_place, as_long_as_x])
def test_an_array_of_computed_length_is_told_how_to_be_written(kernel):
    with pytest.raises(UnsupportedError) as refused:
        simulate(kernel, 1, 32, (np.ones(32, np.float32),))
    assert "PITCH = TILE + 1" in refused.value.remedy
    assert " at 0x" not in refused.value.cause


def test_a_block_of_more_threads_than_the_hardware_has_is_refused():
    """A 32 x 64 tile with one output a thread."""
    case = MODULES["bounds"].CASES[0]
    x = np.ones(2048, np.float32)
    with pytest.raises(UnsupportedError, match=r"32 x 64\b.*1024"):
        simulate(case.right, 1, (32, 64), (x, x.copy()))
