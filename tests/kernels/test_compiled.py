"""Every step of every ladder, compiled for every GPU that it is for, without a GPU.

The simulator runs what a kernel says; these tests look at what becomes of it: no arithmetic in
float64 that nobody asked for, no registers spilled to memory, no more shared memory than a block
may have. PTX of one capability says little about another's registers, so all are compiled.
"""

import dataclasses
import functools

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
import pytest
from numba import cuda, float32

from llm_numba.kernels import gemm, softmax
from llm_numba.kernels.ladder import Ladder, Step, all_ladders
from llm_numba.runtime import Launch, empty_like, kind_of, to_device
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import (
    Resources,
    capability_name,
    compiler_problem,
    resources,
    signature_of,
)

CAPABILITIES = [(7, 5), (8, 0), (8, 9), (9, 0), (9, 0, "a"), (10, 0)]


STEPS = [(ladder, step) for ladder in all_ladders().values() for step in ladder.steps]
each_step = pytest.mark.parametrize(
    ("ladder", "step"), STEPS, ids=[f"{ladder.name}-{step.name}" for ladder, step in STEPS]
)
CASES = [
    pytest.param(
        ladder, step, dtype, capability,
        id=f"{ladder.name}-{step.name}-{dtype}-{capability_name(capability)}",
    )
    for ladder, step in STEPS
    for dtype in ladder.dtypes
    for capability in step.targets(CAPABILITIES)
    # float16 differs from bfloat16 in how an element is widened and rounded, and in nothing else.
    if (dtype != "float16" or capability == (9, 0, "a"))
]  # fmt: skip


def unaligned(array: np.ndarray) -> np.ndarray:
    """Copy an array to where no load of 16 bytes may begin."""
    memory = to_device(np.zeros(array.size + 1, array.dtype), "sim")[1:].reshape(array.shape)
    memory[...] = array
    return memory


@functools.cache
def variants(ladder: Ladder, dtype: str) -> list[dict]:
    """Operands for each of which a plan may choose another kernel.

    They are of the ladder's example, of an awkward shape, of one long row, and unaligned.
    """
    *others, last = ladder.example
    awkward = tuple(length + 1 for length in ladder.example)
    long = (*[1] * len(others), 64 * last)
    cases = [(shape, functools.partial(to_device, device="sim")) for shape in (awkward, long)]
    cases += [(ladder.example, unaligned), (ladder.example, cases[0][1])]
    return [
        {
            name: place(value) if kind_of(value) else value
            for name, value in ladder.operands(shape, np.dtype(dtype), 0).items()
        }
        for shape, place in cases
    ]


def key(launch: Launch) -> tuple:
    return launch.kernel, signature_of(launch), launch.shared_bytes


@functools.cache
def planned(ladder: Ladder, step: Step, dtype: str) -> list[Launch]:
    """One launch of each kernel, signature and amount of shared memory that a step plans."""
    plans = (step.plan(**operands) for operands in variants(ladder, dtype))
    return list({key(launch): launch for plan in plans for launch in plan}.values())


def launches(ladder: Ladder, step: Step, dtype: str) -> list[Launch]:
    """What a step plans; and kernels that an option picks in place of one of them."""
    launched = {launch.kernel for each in ladder.dtypes for launch in planned(ladder, step, each)}
    # One function made them, so they take the same arguments.
    siblings = [
        launch._replace(kernel=kernel)
        for kernel in {*step.kernels} - launched
        for launch in planned(ladder, step, dtype)
        if launch.kernel.py_func.__code__ is kernel.py_func.__code__
    ]
    return planned(ladder, step, dtype) + siblings


COMPILED = {}  # steps and ladders share kernels


def compiled(launch: Launch, capability: tuple) -> Resources:
    if (*key(launch), capability) not in COMPILED:
        COMPILED[*key(launch), capability] = resources(launch, capability)
    return COMPILED[*key(launch), capability]


@pytest.fixture
def _compiler(request):
    """Skip where there is no compiler, but never in the run that is there for these tests."""
    if (problem := compiler_problem()) and request.config.option.markexpr != "ptx":
        pytest.skip(problem)


def faults(found: Resources, capability: tuple) -> list[str]:
    """Say what is wrong with a compiled kernel."""
    limit = LIMITS[capability[:2]].block_shared_bytes
    checks = {
        f"computes in float64: {found.float64}": found.float64,
        f"spills {found.spill_stores} + {found.spill_loads} bytes": (
            found.spill_stores or found.spill_loads
        ),
        f"takes {found.shared_bytes} bytes of shared memory, of {limit}": found.shared_bytes
        > limit,
    }
    return [f"{found.kernel} {fault}" for fault, is_so in checks.items() if is_so]


# -- The ladders --------------------------------------------------------------------------------


def test_two_ladders_of_one_name_are_refused(monkeypatch):
    twin = dataclasses.replace(softmax.LADDER)
    monkeypatch.setattr(gemm, "OTHER", twin, raising=False)
    with pytest.raises(ValueError, match="two of Ladder are named 'softmax'"):
        all_ladders()


@each_step
def test_a_step_lists_the_kernels_that_it_launches_and_no_others(ladder, step):
    launched = {
        launch.kernel for dtype in ladder.dtypes for launch in launches(ladder, step, dtype)
    }
    assert launched == {*step.kernels}


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(("ladder", "step", "dtype", "capability"), CASES)
def test_a_step_compiles_to_what_it_says(ladder, step, dtype, capability):
    found = []
    for launch in launches(ladder, step, dtype):
        found += faults(compiled(launch, capability), capability)
    assert found == []


# -- These tests --------------------------------------------------------------------------------


@cuda.jit
def clean(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = float32(0.1) * x[i]


@cuda.jit(device=True)
def a_tenth(value):
    return 0.1 * value


@cuda.jit
def careless(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] + a_tenth(x[i])


@cuda.jit(max_registers=24)
def crowded(x, y):
    values = cuda.local.array(64, float32)
    for j in range(64):
        values[j] = x[j * cuda.threadIdx.x]
    for k in range(int(x[0])):
        for j in range(64):
            values[j] = values[j] * x[k] + values[(j + 7) % 64]
    for j in range(64):
        y[j * cuda.threadIdx.x] = values[j]


@pytest.mark.ptx
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("kernel", "shared_bytes", "fault"),
    [
        (clean, 0, None),
        (clean, 64 * 1024, None),
        (careless, 0, "careless computes in float64"),
        (crowded, 0, "crowded spills"),
        (clean, 228 * 1024, "takes 233472 bytes of shared memory"),
    ],
)
def test_planted_faults_are_found(kernel, shared_bytes, fault, capability):
    x = to_device(np.ones(64, np.float32), "sim")
    launch = Launch(kernel, (1,), (32,), (x, empty_like(x)), shared_bytes)
    found = faults(resources(launch, capability), capability)
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
