"""Every step of the attention ladder against the reference in float64.

The bound on the error is derived in ``attention_cases``.
"""

import math

import numpy as np
import pytest
from attention_cases import assert_near, operands

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.attention import LADDER, causal_attention
from llm_numba.kernels.attention_register_tile import config_for, register_tile_kernel
from llm_numba.runtime import intercept, kernel_view, to_device, to_host
from llm_numba.runtime.offline import compiler_problem, resources
from llm_numba.simulator import simulate

# In float32 the last step is the one before; what is its own stands in test_attention_tensor.
*STEPS, TENSOR = (step.name for step in LADDER.steps)
each_step = pytest.mark.parametrize("step", STEPS)


def run(q, k, v, *args, device, **kwargs):
    on_device = (to_device(array, device) for array in (q, k, v))
    return to_host(causal_attention(*on_device, *args, **kwargs))


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize(("S", "T", "H", "G", "D"), [(33, 67, 6, 3, 8), (5, 37, 3, 3, 33)])
def test_each_step_is_the_reference(S, T, H, G, D, step, device):
    q, k, v = operands(S, T, H, G, D)
    scale = 0.7 / math.sqrt(D)
    assert_near(run(q, k, v, scale, device=device, step=step), q, k, v, scale)


@pytest.mark.parametrize(
    ("S", "T", "H", "G", "D"),
    [
        (1, 1, 1, 1, 8),
        (1, 127, 4, 2, 8),
        (31, 31, 2, 1, 8),
        (17, 19, 5, 1, 8),
        (3, 3, 2, 2, 1),
        (2, 67, 2, 1, 72),
        (3, 19, 2, 1, 256),
    ],
)
def test_the_last_step_on_awkward_lengths_groups_and_heads(S, T, H, G, D, device):
    q, k, v = operands(S, T, H, G, D)
    scale = 0.7 / math.sqrt(D)
    assert_near(run(q, k, v, scale, device=device, step="paged"), q, k, v, scale)


@pytest.mark.parametrize("step", ["naive", "padded", "paged"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_two_bytes_a_number(dtype, step, device):
    q, k, v = operands(9, 43, 4, 2, 8, dtype)
    assert_near(run(q, k, v, 0.25, device=device, step=step), q, k, v, 0.25)


@pytest.mark.parametrize(
    ("window", "step"),
    [
        *[(7, step) for step in STEPS],
        *[(window, "paged") for window in (1, 32, 44, 45, 1000, 2**31 - 1)],
    ],
)
def test_a_window_hides_what_lies_further_back(window, step, device):
    q, k, v = operands(13, 45, 2, 1, 8)
    assert_near(run(q, k, v, 0.3, window, device=device, step=step), q, k, v, 0.3, window)


@pytest.mark.gpu
@pytest.mark.parametrize("D", [8, 24, 56, 72, 80, 96, 112, 128, 160, 192, 256, 250])
def test_heads_of_any_size_at_the_speed_of_the_last_step(D):
    # Each is a kernel of its own.
    q, k, v = operands(127, 131, 6, 2, D, "bfloat16")
    scale = 1 / math.sqrt(D)
    assert_near(run(q, k, v, scale, 100, device="cuda", step="paged"), q, k, v, scale, 100)


@pytest.mark.gpu
@each_step
def test_a_long_prompt(step):
    q, k, v = operands(1021, 2039, 8, 2, 64, "bfloat16")
    assert_near(run(q, k, v, 0.125, device="cuda", step=step), q, k, v, 0.125)


@each_step
def test_a_strong_query_takes_the_value_of_its_match(step, device):
    # One score is larger than all others by 10^4: any weight but 1 and 0 would show.
    _, _, v = operands(1, 33, 1, 1, 8)
    q = np.full((1, 1, 8), 1e4, np.float32)
    for match in (0, 32):
        k = np.zeros((33, 1, 8), np.float32)
        k[match, 0, 5] = 1
        y = run(q, k, v, 1.0, device=device, step=step)
        np.testing.assert_array_equal(y[0, 0], v[match, 0])


@each_step
def test_nan_in_a_key_shows_in_the_queries_that_see_it_and_in_no_others(step, device):
    q, k, v = operands(40, 40, 2, 1, 8)
    clean = run(q, k, v, 0.5, 30, device=device, step=step)
    k[5, 0, 3] = np.nan
    y = run(q, k, v, 0.5, 30, device=device, step=step)
    sees = np.arange(40)
    sees = (sees >= 5) & (sees < 35)
    assert np.isnan(y[sees]).all()
    np.testing.assert_array_equal(y[~sees], clean[~sees])


@each_step
def test_no_query_sees_a_later_key(step, device):
    q, k, v = operands(37, 40, 2, 1, 8)
    before = run(q, k, v, 0.5, device=device, step=step)
    k[30:], v[30:] = 1e6, -1e6
    after = run(q, k, v, 0.5, device=device, step=step)
    np.testing.assert_array_equal(after[:27], before[:27])
    assert (after[27:] != before[27:]).all()


# -- What it runs on ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["online", "paged"])
@pytest.mark.parametrize("skipped", [1, 4])
def test_arrays_may_begin_anywhere(skipped, step, device):
    q, k, v = operands(5, 19, 2, 1, 8)
    parts = []
    for array in (q, k, v, q):
        whole = to_device(np.zeros(array.size + 8, np.float32), device)
        parts.append(whole[skipped : skipped + array.size].reshape(array.shape))
        parts[-1][...] = to_device(array, device)
    *moved, out = parts
    assert causal_attention(*moved, 0.5, out=out, step=step) is out
    assert_near(to_host(out), q, k, v, 0.5)


@each_step
def test_no_queries_are_no_error(step, device):
    q, k, v = operands(0, 5, 2, 1, 8)
    assert run(q, k, v, 0.5, device=device, step=step).shape == (0, 2, 8)


# -- What it costs ------------------------------------------------------------------------------


def reports(step):
    """Simulate a step on the ladder's example, and return its reports."""
    made = LADDER.operands(LADDER.example, np.dtype(np.float32), 0)
    launches = []
    with intercept(launches.append):
        q, k, v = (to_device(made[name], "sim") for name in "qkv")
        out = causal_attention(q, k, v, made["scale"], step=step)
    found = []
    for launch in launches:
        args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
        found.append(simulate(*launch._replace(args=args)))
    assert_near(to_host(out), made["q"], made["k"], made["v"], made["scale"])
    return found


def test_only_the_naive_step_sends_scores_through_memory():
    _, G, R, S, T = LADDER.example
    scores = G * R * S * T * 4 // 32  # sectors
    moved = {step: sum(report.global_sectors for report in reports(step)) for step in STEPS}
    # Written by the first kernel, read three times and written by the second, read by the third
    # for those keys that are seen: that alone.
    assert moved["naive"] > 5 * scores
    assert moved["tile"] == moved["padded"] < moved["online"] / 20
    fewest = LADDER.fewest_bytes(LADDER.example, 4) // 32
    # One tile of 64 rows holds all 32 queries of the two heads of a group: each number moves once.
    assert moved["register_tile"] == fewest
    # The numbers of the blocks, and what describes the batch, come on top.
    assert fewest < moved["paged"] < 1.2 * fewest


def test_padding_gives_each_key_of_a_warp_a_bank_of_its_own():
    # Rows of D = 32 words: a column of keys lies in one bank.
    for step, ways in (("tile", 32), ("padded", 1)):
        (report,) = reports(step)
        assert max(line.max_bank_ways for line in report.lines) == ways


@pytest.mark.ptx
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_heads_of_real_models_stay_in_registers(D, dtype, capability):
    if problem := compiler_problem():
        pytest.skip(problem)
    q, k, v = (to_device(array, "sim") for array in operands(4, 16, 4, 2, D, dtype))
    out = to_device(np.zeros((4, 4, D), dtype), "sim")
    launch = LADDER.step("paged").plan(q, k, v, 0.5, None, out)[-1]
    assert launch.kernel is register_tile_kernel(D, config_for(D), True, True)
    found = resources(launch, capability)
    assert found.stack_bytes == found.spill_stores == found.spill_loads == 0
    assert not found.float64


# -- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": np.zeros((3, 16), np.float32)}, ["'q'", "2 axes"]),
        ({"q": np.zeros((3, 2, 264), np.float32)}, ["264", "256"]),
        ({"q": np.zeros((3, 2, 0), np.float32)}, ["D = 0", "256"]),
        ({"q": np.zeros((3, 2, 16), np.int32)}, ["'q'", "int32"]),
        ({"k": np.zeros((5, 1, 8), np.float32)}, ["'k'", "(5, 1, 8)", "16"]),
        ({"k": np.zeros((5, 1, 16), np.float16)}, ["'k'", "float16", "float32"]),
        ({"v": np.zeros((4, 1, 16), np.float32)}, ["'v'", "(4, 1, 16)", "(5, 1, 16)"]),
        ({"q": np.zeros((6, 2, 16), np.float32)}, ["6 queries", "5 keys"]),
        ({"scale": math.inf}, ["'scale'", "inf"]),
        ({"window": 0}, ["'window'", "0", "1"]),
        ({"window": 2.5}, ["'window'", "2.5", "integer"]),
        ({"out": np.zeros((3, 2, 8), np.float32)}, ["'out'", "(3, 2, 8)"]),
        ({"step": "fastest"}, ["'step'", "'fastest'", ", ".join([*STEPS, TENSOR])]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(changes, words, device):
    arguments = dict(zip("qkv", operands(3, 5, 2, 1, 16), strict=True)) | {"scale": 0.5} | changes
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            arguments[name] = to_device(value, device)
    with pytest.raises(KernelArgumentError) as refusal:
        causal_attention(**arguments)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("G", [0, 2, 4])
def test_kv_heads_must_divide_the_query_heads(G, device):
    q, k, v = (to_device(array, device) for array in operands(3, 5, 3, 1, 8))
    k, v = (to_device(np.zeros((5, G, 8), np.float32), device) for _ in "kv")
    with pytest.raises(KernelArgumentError, match=f"'k' has {G} KV heads for 3 query heads"):
        causal_attention(q, k, v, 0.5)


def test_arrays_of_the_host_are_refused(device):
    q, k, v = operands(3, 5, 2, 1, 8)
    with pytest.raises(KernelArgumentError, match="'q' is a NumPy array in the host"):
        causal_attention(q, k, v, 0.5)
    with pytest.raises(KernelArgumentError, match="'v' is a NumPy array in the host"):
        causal_attention(to_device(q, device), to_device(k, device), v, 0.5)
