"""Activations and the gate of an MLP on a device, against the reference in float64.

Bounds in units u = 2^-24 of float32. Those of the activations are derived in
tests/kernels/test_activation.py; the product with up is one rounding more, what is stored another.
Below g = -87.3 the reciprocal of 1 + exp(-g) is subnormal and taken for 0: SiLU is off by all of
itself there, at most 89 * 2^-126.
"""

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import elementwise
from llm_numba.kernels.elementwise import LADDER, plan_vectorised, rule, silu_mul
from llm_numba.kernels.packets import CANDIDATES, Config
from llm_numba.runtime import intercept, kernel_view, launch_all, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

U = 2.0**-24
FLUSHED = 89 * 2.0**-126
each_step = pytest.mark.parametrize("step", [step.name for step in LADDER.steps])
each_dtype = pytest.mark.parametrize("dtype", LADDER.dtypes)
each_activation = pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])

BOUNDS = {
    "gelu": lambda x, truth: (16 + 3 * x**2) * U * np.abs(truth),
    "gelu_tanh": lambda x, truth: 8 * U * np.abs(x),
    "silu": lambda x, truth: (10 + 2 * np.abs(x)) * U * np.abs(truth) + FLUSHED,
}


def numbers(shape, dtype, size=4.0):
    return np.random.default_rng(list(shape)).normal(scale=size, size=shape).astype(dtype)


def stored_bound(truth, dtype):
    kept = ml_dtypes.finfo(dtype)
    return float(kept.eps) / 2 * np.abs(truth) + float(kept.smallest_normal)


def assert_gated(y, gate_up):
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    # The reference goes by tanh, so its error is relative to g: no measure of results near 0.
    with np.errstate(over="ignore"):
        truth = gate / (1 + np.exp(-gate)) * up
    bound = (12 + 2 * np.abs(gate)) * U * np.abs(truth) + FLUSHED * np.abs(up)
    assert y.dtype == gate_up.dtype
    error = np.abs(y.astype(np.float64) - truth)
    assert (error <= bound + stored_bound(truth, y.dtype)).all()


# -- The gate ------------------------------------------------------------------------------------


@each_step
@each_dtype
@pytest.mark.parametrize(
    "shape", [(1, 2), (3, 62), (5, 64), (1, 2, 3, 16), (130, 14), (2, 8208), (32784,)], ids=str
)
def test_each_step_is_the_reference(shape, dtype, step, device):
    gate_up = numbers(shape, dtype)
    y = to_host(silu_mul(to_device(gate_up, device), step=step))
    assert y.shape == (*shape[:-1], shape[-1] // 2)
    assert_gated(y, gate_up)


@each_step
@each_dtype
def test_far_from_zero_the_gate_is_shut_or_open(dtype, step, device):
    gate = np.array([-3e4, -300, -90, -88, -87, -30, 30, 90, 300, 3e4], dtype)
    gate_up = np.stack([np.concatenate([gate, np.full(10, up, dtype)]) for up in (1, -0.75)])
    y = to_host(silu_mul(to_device(gate_up, device), step=step))
    assert_gated(y, gate_up)
    assert not y[:, :2].any()
    np.testing.assert_array_equal(y[0, 6:], gate[6:])


@each_step
def test_nan_stays_where_it_is(step, device):
    gate_up = numbers((3, 32), "float32")
    gate_up[0, 3] = gate_up[1, 16 + 5] = np.nan
    y = to_host(silu_mul(to_device(gate_up, device), step=step))
    np.testing.assert_array_equal(np.argwhere(np.isnan(y)), [[0, 3], [1, 5]])


@each_dtype
def test_no_configuration_changes_a_bit(dtype, device):
    gate_up, results = to_device(numbers((5, 2 * 4104), dtype), device), []
    for config in CANDIDATES:
        out = to_device(np.zeros((5, 4104), dtype), device)
        launch_all(plan_vectorised(gate_up, out, config))
        results.append(to_host(out).astype(np.float64))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_few_packets_reach_more_blocks_than_many_would():
    assert rule((1, 14336), "bfloat16").threads < rule((16384, 8192), "bfloat16").threads
    assert {rule((1, 14336), "float32"), rule((16384, 8192), "bfloat16")} <= {*CANDIDATES}


@each_dtype
def test_arrays_may_begin_anywhere(dtype, device):
    gate_up = numbers((3, 64), dtype)
    for skipped in (1, 3):
        memory = to_device(np.zeros(gate_up.size + skipped, dtype), device)
        part = memory[skipped:].reshape(gate_up.shape)
        part[...] = to_device(gate_up, device)
        assert_gated(to_host(silu_mul(part)), gate_up)
        out = to_device(np.zeros(3 * 32 + skipped, dtype), device)[skipped:].reshape(3, 32)
        assert silu_mul(to_device(gate_up, device), out=out) is out
        assert_gated(to_host(out), gate_up)


@each_step
@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0,), (2, 0, 4)])
def test_no_numbers_are_no_error(shape, step, device):
    launches = []
    with intercept(launches.append):
        y = silu_mul(to_device(np.zeros(shape, np.float32), device), step=step)
    assert y.shape == (*shape[:-1], shape[-1] // 2)
    assert launches == []


@each_dtype
def test_the_last_step_moves_the_fewest_bytes_16_at_a_time(dtype):
    itemsize = np.dtype(dtype).itemsize
    shape = (4, 2048 // itemsize)  # 128 packets a row
    operands = LADDER.operands(shape, np.dtype(dtype), 0)
    (launch,) = plan_vectorised(
        **{k: to_device(v, "sim") for k, v in operands.items()}, config=Config(128, 1)
    )
    args = tuple(map(kernel_view, launch.args))
    report = simulate(launch.kernel, launch.grid, launch.block, args)
    assert report.global_sectors == LADDER.fewest_bytes(shape, itemsize) // 32
    assert report.global_requests == report.global_sectors // 16


def test_no_order_of_the_threads_matters():
    for shape in ((3, 520), (5, 9)):
        for step in LADDER.steps:
            operands = LADDER.operands(shape, np.dtype("bfloat16"), 0)
            on_device = {k: to_device(v, "sim") for k, v in operands.items()}
            for launch in step.plan(**on_device):
                args = tuple(map(kernel_view, launch.args))
                simulate(launch.kernel, launch.grid, launch.block, args, schedule="random", seed=1)
            assert_gated(to_host(on_device["out"]), operands["gate_up"])


@pytest.mark.ptx
@each_dtype
@pytest.mark.parametrize("packets", [1, 2, 4])
def test_each_configuration_stays_in_registers(packets, dtype):
    if problem := compiler_problem():
        pytest.skip(problem)
    operands = LADDER.operands((2, 64), np.dtype(dtype), 0)
    operands = {k: to_device(v, "sim") for k, v in operands.items()}
    (launch,) = plan_vectorised(**operands, config=Config(256, packets))
    found = resources(launch, (9, 0))
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
    assert not found.float64


def test_the_gate_is_the_first_half_as_in_the_reference(device):
    gate_up = numbers((4, 64), "float32")
    y = to_host(silu_mul(to_device(gate_up, device)))
    np.testing.assert_allclose(y, reference.silu_mul(gate_up), rtol=1e-4, atol=1e-5)


# -- Activations ---------------------------------------------------------------------------------


@each_activation
@each_dtype
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (3, 5), (2, 3, 8), (1, 1, 1, 4099)])
def test_an_activation_is_the_reference(shape, dtype, name, device):
    x = numbers(shape, dtype)
    y = to_host(getattr(elementwise, name)(to_device(x, device)))
    exact = x.astype(np.float64)
    truth = getattr(reference, name)(exact)
    assert (y.dtype, y.shape) == (x.dtype, shape)
    bound = BOUNDS[name](exact, truth) + stored_bound(truth, dtype)
    assert (np.abs(y.astype(np.float64) - truth) <= bound).all()


@each_activation
@each_dtype
def test_an_activation_may_take_and_leave_numbers_anywhere_and_in_place(dtype, name, device):
    function, x = getattr(elementwise, name), numbers((37,), dtype)
    expected = to_host(function(to_device(x, device))).astype(np.float64)
    for skipped in (0, 1, 3):
        memory = to_device(np.zeros(37 + skipped + 2, dtype), device)
        part = memory[skipped : skipped + 37]
        part[...] = to_device(x, device)
        assert function(part, out=part) is part
        np.testing.assert_array_equal(to_host(part).astype(np.float64), expected)
        assert not to_host(memory[:skipped]).any()
        assert not to_host(memory[skipped + 37 :]).any()


@each_activation
def test_an_activation_of_nothing_is_nothing(name, device):
    x = to_device(np.zeros((3, 0), np.float32), device)
    assert getattr(elementwise, name)(x).shape == (3, 0)


@pytest.mark.ptx
@each_activation
@each_dtype
@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_an_activation_stays_in_registers(capability, dtype, name):
    if problem := compiler_problem():
        pytest.skip(problem)
    launches = []
    with intercept(launches.append):
        getattr(elementwise, name)(to_device(np.zeros(64, dtype), "sim"))
    found = resources(launches[0], capability)
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
    assert not found.float64


# -- What is refused -----------------------------------------------------------------------------

G = np.zeros((3, 8), np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gate_up": G.astype(np.int32)}, ["'gate_up'", "int32"]),
        ({"gate_up": np.zeros((3, 7), np.float32)}, ["'gate_up'", "(3, 7)", "even"]),
        ({"gate_up": np.zeros((), np.float32)}, ["'gate_up'", "()", "even"]),
        ({"gate_up": np.zeros((8, 3), np.float32).T}, ["'gate_up'", "C-contiguous"]),
        ({"out": G}, ["'out'", "(3, 8)", "(3, 4)"]),
        ({"out": np.zeros((3, 4), np.float16)}, ["'out'", "float16", "float32"]),
        ({"step": "block"}, ["'step'", "naive, vectorised"]),
    ],
)
def test_wrong_arguments_are_named(changes, words, device):
    operands = {"gate_up": G} | changes
    operands = {
        k: to_device(v, device) if type(v) is np.ndarray else v for k, v in operands.items()
    }
    with pytest.raises(KernelArgumentError) as refusal:
        silu_mul(**operands)
    for word in words:
        assert word in str(refusal.value)


@each_activation
def test_wrong_arguments_of_an_activation_are_named(name, device):
    x = to_device(G, device)
    for arguments, word in [
        ({"x": to_device(G.astype(np.int32), device)}, "'x'"),
        ({"x": G}, "'x'"),
        ({"x": x, "out": x[:2]}, "'out'"),
    ]:
        with pytest.raises(KernelArgumentError, match=word):
            getattr(elementwise, name)(**arguments)
