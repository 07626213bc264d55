"""Attention on tensor cores: the last step of the ladder, for prompts and for paged batches.

The bound on the error is derived in ``attention_cases``.
"""

import itertools
import linecache
from types import FunctionType, ModuleType

import numpy as np
import pytest
from attention_cases import Batch, assert_near, operands
from numba import cuda

from llm_numba.kernels import attention_paged, attention_tensor, ptx
from llm_numba.kernels.attention import LADDER, causal_attention, paged_attention
from llm_numba.kernels.attention_register_tile import Config
from llm_numba.kernels.attention_tensor import obstacle, tensor_config
from llm_numba.kernels.attention_tensor_pieces import Shape
from llm_numba.runtime import intercept, kernel_view, listen, to_device, to_host
from llm_numba.runtime.limits import LIMITS
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate
from llm_numba.simulator.errors import UninitializedReadError

SMALL = Config(64, 16, 2)  # an eighth of the work of the tiles that are used


def run(q, k, v, *args, device):
    on_device = (to_device(array, device) for array in (q, k, v))
    return to_host(causal_attention(*on_device, *args, step="tensor"))


def run_batch(batch, *args, device, **options):
    arrays = (to_device(array, device) for array in batch.arrays)
    return to_host(paged_attention(*arrays, *args, step="tensor", **options))


def planned(batch):
    """Return the launch of a batch, as the simulator takes it."""
    found = []
    with intercept(found.append):
        run_batch(batch, 0.5, device="sim", batch_invariant=True)
    (launch,) = found
    args = (kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
    return launch._replace(args=tuple(args))


# -- What it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("S", "T", "H", "G", "D", "dtype"),
    [
        (1, 1, 1, 1, 16, "bfloat16"),
        (33, 67, 6, 3, 16, "float16"),
        (130, 130, 2, 2, 16, "bfloat16"),
        (5, 37, 3, 3, 80, "bfloat16"),
        (3, 35, 2, 1, 144, "float16"),
    ],
)
def test_awkward_lengths_groups_and_heads(S, T, H, G, D, dtype, device):
    q, k, v = operands(S, T, H, G, D, dtype)
    assert_near(run(q, k, v, 0.3, device=device), q, k, v, 0.3, tensor=True)


@pytest.mark.parametrize("window", [None, 1, 21, 64])
def test_a_batch_of_prompts_chunks_and_single_tokens(window, device):
    batch = Batch([70, 0, 3, 1], [70, 5, 67, 130], 4, 2, 16, 3, "bfloat16")
    batch.assert_near(run_batch(batch, 0.3, window, device=device), 0.3, window, tensor=True)


def test_a_strong_query_takes_the_value_of_its_match(device):
    # One score is larger than all others by 10^4: any weight but 1 and 0 would show.
    _, _, v = operands(1, 67, 1, 1, 16, "float16")
    q = np.full((1, 1, 16), 1e4, np.float16)
    for match in (0, 66):
        k = np.zeros((67, 1, 16), np.float16)
        k[match, 0, 5] = 1
        np.testing.assert_array_equal(run(q, k, v, 1.0, device=device)[0, 0], v[match, 0])


def test_nan_in_a_key_shows_in_the_queries_that_see_it_and_in_no_others(device):
    q, k, v = operands(40, 40, 2, 1, 16, "bfloat16")
    clean = run(q, k, v, 0.5, 30, device=device)
    k[5, 0, 3] = np.nan
    y = run(q, k, v, 0.5, 30, device=device)
    sees = np.arange(40)
    sees = (sees >= 5) & (sees < 35)
    assert np.isnan(y[sees].astype(np.float32)).all()
    np.testing.assert_array_equal(y[~sees], clean[~sees])


def test_no_query_sees_a_later_key(device):
    q, k, v = operands(37, 40, 2, 1, 16, "float16")
    before = run(q, k, v, 0.5, device=device)
    k[30:], v[30:] = 1e3, -1e3
    after = run(q, k, v, 0.5, device=device)
    np.testing.assert_array_equal(after[:27], before[:27])
    assert (after[27:] != before[27:]).all()


def test_rows_of_no_sequence_are_left_and_those_of_no_key_are_zero(device):
    batch = Batch([4, 2], [4, 2], 2, 1, 16, dtype="float16")
    q, *others, _ = batch.arrays
    padded = np.concatenate([q, np.full((3, 2, 16), np.nan, np.float16)])
    out = to_device(np.full(padded.shape, 7, np.float16), device)
    # No sequence is shorter than its queries; but a padded one may be.
    arrays = (padded, *others, np.array([1, 0], np.int32))
    paged_attention(*(to_device(each, device) for each in arrays), 0.5, step="tensor", out=out)
    y = to_host(out)
    assert not y[:3].any()
    np.testing.assert_array_equal(y[3], batch.values[0][0].repeat(2, axis=0))
    assert not y[4:6].any()
    assert (y[6:] == 7).all()


def test_a_row_has_the_same_bits_in_any_batch_and_any_chunk(device):
    batch = Batch([9, 70, 40], [20, 70, 77], 6, 2, 16, dtype="bfloat16")
    q, k_cache, v_cache, tables, *_ = (to_device(array, device) for array in batch.arrays)
    for window in (None, 50):
        together = run_batch(batch, 0.5, window, device=device)
        for b, (count, context) in enumerate(zip(batch.queries, batch.contexts, strict=True)):
            ends = [0, 1, count // 2, count]
            for begin, end in itertools.pairwise(ends):
                rows = slice(batch.query_starts[b] + begin, batch.query_starts[b] + end)
                starts = to_device(np.array([0, end - begin], np.int32), device)
                length = to_device(np.array([context - count + end], np.int32), device)
                part = paged_attention(
                    q[rows], k_cache, v_cache, tables[b : b + 1], starts, length, 0.5, window,
                    step="tensor", batch_invariant=True,
                )  # fmt: skip
                np.testing.assert_array_equal(to_host(part), together[rows])


# -- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("D", [16, 32, 64, 80, 96, 112, 128, 192, 256])
def test_heads_of_any_size(D, dtype):
    q, k, v = operands(127, 131, 6, 2, D, dtype)
    scale = D**-0.5
    assert_near(run(q, k, v, scale, 100, device="cuda"), q, k, v, scale, 100, tensor=True)


@pytest.mark.gpu
def test_a_long_prompt():
    q, k, v = operands(1021, 2039, 8, 2, 128, "bfloat16")
    assert_near(run(q, k, v, 0.1, device="cuda"), q, k, v, 0.1, tensor=True)


@pytest.mark.gpu
def test_a_large_batch_a_hundred_times():
    queries = [1, 300, 1, 127, 64, 0, 1, 511, 1]
    contexts = [2039, 300, 1, 901, 64, 5, 777, 1023, 65]
    batch = Batch(queries, contexts, 8, 2, 128, 16, "bfloat16")
    once = run_batch(batch, 0.1, 500, device="cuda")
    batch.assert_near(once, 0.1, 500, tensor=True)
    for _ in range(100):
        np.testing.assert_array_equal(run_batch(batch, 0.1, 500, device="cuda"), once)


# -- What cannot be multiplied so ----------------------------------------------------------------


def on_simulator(*shape, dtype="bfloat16", shift=0):
    memory = to_device(np.zeros(int(np.prod(shape)) + shift, dtype), "sim")
    return memory[shift:].reshape(shape)


def test_what_tensor_cores_cannot_multiply_is_named_and_goes_to_the_step_before(monkeypatch):
    whole = on_simulator(5, 2, 16)
    shifted = on_simulator(5, 2, 16, shift=1)
    for arrays, word in [
        ([on_simulator(5, 2, 16, dtype="float32")] * 3, "not float32"),
        ([on_simulator(5, 2, 24)] * 3, "24 numbers"),
        ([whole, shifted, whole], "does not begin"),
    ]:
        assert word in obstacle(*arrays)
        launches = []
        with intercept(launches.append):
            causal_attention(*arrays, 0.5, step="tensor")
        assert launches[-1].kernel.py_func.__name__ == "attention_register_tile"
    assert obstacle(whole, whole, whole) is None
    monkeypatch.setattr(attention_tensor, "has_capability", lambda array, least: False)
    assert "older than" in obstacle(whole)


def test_it_is_told_once_why_the_step_before_is_taken():
    told, batch = [], Batch([5, 1], [5, 9], 2, 1, 8, dtype="float16")
    listen(told.append)
    try:
        for _ in range(2):
            run_batch(batch, 0.5, device="sim")
    finally:
        listen(None)
    (line,) = told
    assert "ordinary units" in line
    assert "Heads of 8 numbers" in line


# -- What it costs, and what must not pass --------------------------------------------------------


def test_fragments_are_all_that_is_loaded_and_meet_no_bank_twice():
    batch = Batch([32], [128], 4, 1, 32, dtype="float16")
    lines = simulate(*planned(batch)).lines
    loads = [line for line in lines if "ldmatrix" in linecache.getline(line.file, line.line)]
    assert {line.max_bank_ways for line in loads} == {1}
    config = tensor_config(32)
    of_queries, of_keys = config.rows // 4 // 16, config.keys // 16
    # Four warps, two tiles of keys: along D queries and keys, and keys again for the values.
    wanted = 4 * 2 * (32 // 16) * (of_queries + 2 * of_keys)
    assert sum(line.shared_requests for line in loads) == wanted


def test_copies_meet_no_bank_twice():
    report = simulate(*planned(Batch([32], [64], 4, 1, 128, dtype="float16")))
    copies = [line for line in report.lines if line.global_requests and line.shared_requests]
    assert copies
    assert {line.max_bank_ways for line in copies} == {1}


@pytest.mark.parametrize("seed", range(2))
def test_no_order_of_the_threads_matters(seed, monkeypatch):
    monkeypatch.setattr(attention_paged, "tensor_config", lambda head_dim: SMALL)
    batch = Batch([3, 0, 2], [20, 3, 2], 2, 1, 16, dtype="float16")
    launch = planned(batch)
    simulate(*launch, explain=False, schedule="random", seed=seed)
    y = np.array(launch.args[-1]).reshape(batch.q.shape)
    batch.assert_near(y, 0.5, tensor=True)


@cuda.jit(device=True)
def do_not_wait(groups):
    """Stand in for the wait that somebody forgot."""


def test_a_missing_wait_is_found(monkeypatch):
    monkeypatch.setattr(attention_paged, "tensor_config", lambda head_dim: SMALL)
    launch = planned(Batch([3], [20], 2, 1, 16, dtype="float16"))
    function = launch.kernel.py_func
    careless = ModuleType("careless")
    vars(careless).update(vars(ptx), cp_async_wait=do_not_wait)
    names = {**function.__globals__, "ptx": careless}
    planted = FunctionType(function.__code__, names, None, None, function.__closure__)
    with pytest.raises(UninitializedReadError, match=r"before a copy has arrived"):
        simulate(cuda.jit(planted), *launch[1:])


@pytest.mark.parametrize("D", range(16, 257, 16))
def test_a_block_fits_on_every_gpu_that_has_the_instruction(D):
    config = tensor_config(D)
    limit = min(sm.block_shared_bytes for each, sm in LIMITS.items() if each >= (8, 0))
    slots = 4 * 2 * (config.rows + config.keys)
    assert attention_tensor.tensor_bytes(D, config) + slots <= limit
    # Eight rows begin in eight groups of four banks.
    pitch = Shape(D, config.rows, config.keys).pitch * 2
    assert len({row * pitch % 128 for row in range(8)}) == 8


@pytest.mark.ptx
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_sums_and_fragments_stay_in_registers(D, capability):
    if problem := compiler_problem():
        pytest.skip(problem)
    q, k, v = (to_device(array, "sim") for array in operands(4, 16, 4, 2, D, "bfloat16"))
    out = to_device(np.zeros((4, 4, D), "bfloat16"), "sim")
    launch = LADDER.step("tensor").plan(q, k, v, 0.5, None, out)[-1]
    assert launch.kernel.py_func.__name__ == "attention_tensor"
    found = resources(launch, capability)
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
    assert not found.float64
