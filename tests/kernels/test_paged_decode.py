"""Every step of the decoding ladder against the reference in float64, over poisoned caches.

Bound, in units u of float32. An exponent is s q.k log2(e): D products and as many additions, each
off by u of A = s log2(e) |q| |k| at most, and the maximum that is subtracted carries the same. The
instruction for a power of two is off by 2^-22; so are the factors that take a part from one maximum
to the next, at most one a position. A weight's relative error e is that of its power; the
numerator and the denominator have it, and T additions besides. Of a mix of values with such
weights, the error is at most that share of the same mix of |v|. What is stored is rounded once.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.paged_decode import LADDER, TUNABLE, paged_decode_attention
from llm_numba.kernels.paged_decode_joined import MOST_PIECES
from llm_numba.kernels.paged_decode_plans import (
    Config,
    blocks_of,
    candidates,
    fixed_rule,
    joined_piece,
    plan_joined,
    plan_split,
    rule,
)
from llm_numba.runtime import capture, intercept, kernel_view, launch_all, to_device, to_host
from llm_numba.simulator import simulate

STEPS = [step.name for step in LADDER.steps]
each_step = pytest.mark.parametrize("step", STEPS)
CONTEXTS = (1, 15, 16, 17, 100, 300)


def head_dim_of(step, otherwise=16):
    """Return a head dimension for which a step has a kernel of its own."""
    return 64 if step == "joined" else otherwise


class Pages:
    """Contexts scattered over caches in which all that no sequence owns is NaN."""

    def __init__(self, contexts, heads, head_dim, block_size, dtype="float32", seed=0):
        rng = np.random.default_rng([*contexts, *heads, head_dim, block_size, seed])
        num_heads, num_kv_heads = heads
        counts = [-(-length // block_size) for length in contexts]
        shape = (sum(counts) + 2, block_size, num_kv_heads, head_dim)
        free = iter(rng.permutation(shape[0]).tolist())
        nobodys = next(free)
        self.tables = np.full((len(contexts), max([*counts, 1]) + 1), nobodys, np.int32)
        self.k, self.v = (np.full(shape, np.nan).astype(dtype) for _ in range(2))
        for b, (length, count) in enumerate(zip(contexts, counts, strict=True)):
            self.tables[b, :count] = [next(free) for _ in range(count)]
            for p in range(length):
                row = self.tables[b, p // block_size], p % block_size
                self.k[row], self.v[row] = rng.normal(size=(2, num_kv_heads, head_dim))
        self.q = rng.normal(size=(len(contexts), num_heads, head_dim)).astype(dtype)
        self.contexts = np.array(contexts, np.int32)
        self.scale = head_dim**-0.5

    def run(self, device, window=None, rows=slice(None), scale=None, **options):
        """Attend on a device, with some of the sequences."""
        host = (self.q[rows], self.k, self.v, self.tables[rows], self.contexts[rows])
        arrays = [to_device(np.ascontiguousarray(each), device) for each in host]
        scale = self.scale if scale is None else scale
        arrived = to_device(np.zeros(self.q[rows].shape[0] * self.q.shape[1], np.int32), device)
        out = paged_decode_attention(*arrays, scale, window, arrived=arrived, **options)
        assert not to_host(arrived).any()
        return to_host(out)

    def truth(self, window=None, values=None):
        """Attend in float64, over caches without the NaN that nobody may look at."""
        q, k, v = (
            np.nan_to_num(each.astype(np.float64))
            for each in (self.q, self.k, self.v if values is None else values)
        )
        return reference.paged_decode_attention(
            q, k, v, self.tables, self.contexts, self.scale, window
        )

    def assert_near(self, out, window=None):
        """Assert that a result is right, to the bound above."""
        u, power, length = 2.0**-24, 2.0**-22, max(self.contexts)
        sizes = [np.nanmax(np.linalg.norm(a.astype(float), axis=-1)) for a in (self.q, self.k)]
        reach = self.scale * math.log2(math.e) * math.prod(sizes)
        weight = math.log(2) * 2 * (self.q.shape[-1] + 4) * u * reach + (length + 1) * power
        mixed = self.truth(window, np.abs(self.v.astype(np.float64)))
        truth, stored = self.truth(window), ml_dtypes.finfo(out.dtype)
        bound = (2 * weight + 2 * length * u) * mixed + float(stored.eps) / 2 * np.abs(truth)
        assert out.dtype == self.q.dtype
        error = np.abs(out.astype(np.float64) - truth)
        assert (error <= bound + float(stored.smallest_subnormal)).all(), (error / bound).max()


# -- What it computes ---------------------------------------------------------------------------


# A GPU compiles a kernel for each step, format and layout, some seconds each: there, fewer of them.
@pytest.mark.parametrize(
    ("step", "dtype", "device"),
    [(step, "bfloat16", "sim") for step in STEPS]
    + [(step, dtype, "sim") for step in STEPS[-2:] for dtype in ("float32", "float16")]
    + [pytest.param(step, "bfloat16", "cuda", marks=pytest.mark.gpu) for step in STEPS],
    indirect=["device"],
)
def test_contexts_of_all_lengths_over_pages_that_hold_nan_elsewhere(dtype, step, device):
    pages = Pages(CONTEXTS, (4, 2), head_dim_of(step, 32), 16, dtype)
    pages.assert_near(pages.run(device, step=step))


# Head dimensions: of the bundled model, without packets, with idle lanes, with two packets a lane;
# groups: not shared, no power of two, larger than what a block takes; tiles beyond a block's end.
SHAPES = [
    ((2, 2), 24, 16, "float32"),
    ((3, 1), 7, 5, "float32"),
    ((5, 1), 33, 3, "bfloat16"),
    ((7, 1), 96, 8, "bfloat16"),
    ((4, 1), 80, 1, "float16"),
    ((16, 1), 64, 32, "float32"),
    ((12, 1), 256, 4, "float32"),
    ((1, 1), 256, 16, "bfloat16"),
]


@pytest.mark.parametrize(
    ("heads", "head_dim", "block_size", "dtype", "step"),
    [(*shape, step) for shape in SHAPES for step in STEPS[-2:]]
    + [(*SHAPES[3], step) for step in STEPS[:-2]],
)
def test_any_head_dimension_group_and_block_size(heads, head_dim, block_size, dtype, step, device):
    pages = Pages((19, 70), heads, head_dim, block_size, dtype)
    pages.assert_near(pages.run(device, step=step))


@pytest.mark.parametrize(
    ("step", "window", "block_size"),
    [("split", window, block_size) for window in (1, 7, 64, 1000) for block_size in (5, 16)]
    + [("joined", window, 16) for window in (1, 7, 64, 1000)]
    + [(step, 7, 5) for step in STEPS[:-2]],
)
def test_a_window_hides_what_is_older(window, block_size, step, device):
    pages = Pages((1, 7, 17, 130), (4, 2), head_dim_of(step), block_size)
    out = pages.run(device, window, step=step)
    pages.assert_near(out, window)
    if window >= 130:
        np.testing.assert_array_equal(out, pages.run(device, step=step))


@pytest.mark.parametrize(("step", "block_size"), [("split", 5)] + [(step, 16) for step in STEPS])
def test_what_lies_before_the_window_may_be_anything(block_size, step, device):
    pages = Pages((100,), (4, 2), head_dim_of(step), block_size)
    expected = pages.run(device, 30, step=step)
    # Position 70 is the first that is seen: a sequence may have given all blocks before it back.
    for p in range(70):
        row = pages.tables[0, p // block_size], p % block_size
        pages.k[row] = pages.v[row] = np.nan
    np.testing.assert_array_equal(pages.run(device, 30, step=step), expected)


@each_step
def test_a_row_of_padding_gives_zeros_and_the_others_do_not_care(step, device):
    pages = Pages((0, 20, 0), (4, 2), head_dim_of(step), 16)
    out = pages.run(device, step=step)
    assert not out[[0, 2]].any()
    np.testing.assert_array_equal(out[1:2], pages.run(device, rows=[1], step=step))
    pages.assert_near(out)


@pytest.mark.parametrize(("step", "bad"), [("split", np.inf)] + [(step, np.nan) for step in STEPS])
def test_a_key_that_is_no_number_spoils_its_own_heads_alone(bad, step, device):
    pages = Pages((20, 20), (4, 2), head_dim_of(step), 16)
    clean = pages.run(device, step=step)
    pages.k[pages.tables[0, 0], 3, 1] = bad
    out = pages.run(device, step=step)
    # An infinite key meets numbers of both signs, which gives NaN.
    assert np.isnan(out[0, 2:]).all()
    np.testing.assert_array_equal(out[0, :2], clean[0, :2])
    np.testing.assert_array_equal(out[1], clean[1])


@pytest.mark.parametrize(("step", "size"), [("split", 1e-3)] + [(step, 1e4) for step in STEPS])
def test_scores_may_be_tiny_or_huge(size, step, device):
    pages = Pages((70,), (4, 2), 16, 16)
    pages.q *= np.float32(size)
    out = pages.run(device, step=step)
    if size < 1:
        pages.assert_near(out)
        return
    # One key has all the weight: the result is its value.
    k, v = (
        np.nan_to_num(c)[pages.tables[0, :5]].reshape(-1, 2, 16)[:70] for c in (pages.k, pages.v)
    )
    for head in range(4):
        best = np.argmax(k[:, head // 2].astype(float) @ pages.q[0, head].astype(float))
        np.testing.assert_allclose(out[0, head], v[best, head // 2], rtol=1e-6)


# -- Pieces -------------------------------------------------------------------------------------


def operands_of(pages, device, window=None):
    """Place the operands of a plan on a device."""
    arrays = (pages.q, pages.k, pages.v, pages.tables, pages.contexts)
    names = ("q", "k_cache", "v_cache", "block_tables", "context_lens")
    operands = dict(zip(names, (to_device(each, device) for each in arrays), strict=True))
    out = to_device(np.full_like(pages.q, np.nan), device)
    arrived = to_device(np.zeros(pages.q.shape[0] * pages.q.shape[1], np.int32), device)
    return operands | {"scale": pages.scale, "window": window, "out": out, "arrived": arrived}


def run_config(config, pages, device, window=None):
    """Attend in pieces, with a config of its own."""
    operands = operands_of(pages, device, window)
    launch_all(plan_split(config, **operands))
    return to_host(operands["out"])


@pytest.mark.parametrize(
    ("piece", "window"), [(32, None), (64, 50), (96, None), (96, 50), (300, None)]
)
def test_a_context_may_be_cut_anywhere(window, piece, device):
    pages = Pages((1, 32, 33, 300), (4, 2), 32, 16)
    out = run_config(Config(loads=4, warps=4, stages=3, piece=piece), pages, device, window)
    pages.assert_near(out, window)


@pytest.mark.parametrize(
    ("group", "config"),
    [(1, Config(8, 1, 2, 64)), (2, Config(2, 2, 4, 64)), (8, Config(1, 4, 2, 64))],
)
def test_every_layout_is_right(group, config):
    pages = Pages((70,), (group, 1), 32, 16)
    pages.assert_near(run_config(config, pages, "sim"))


def test_a_sequence_alone_has_the_bits_that_it_has_in_a_batch(device):
    pages = Pages((700, 3, 520), (4, 1), 16, 16, "bfloat16")
    together = pages.run(device, batch_invariant=True)
    for row in range(3):
        alone = pages.run(device, rows=[row], batch_invariant=True)
        np.testing.assert_array_equal(alone[0].view("u1"), together[row].view("u1"))
    # Alone, and with a table of its own width, the short one needs no pieces at all.
    pages.tables = pages.tables[:, :1]
    alone = pages.run(device, rows=[1], batch_invariant=True)
    np.testing.assert_array_equal(alone[0].view("u1"), together[1].view("u1"))


def test_the_rule_for_all_batches_does_not_look_at_the_batch():
    for model in ((128, 8, 4), (64, 1, 16), (24, 4, 1)):
        shapes = [(*model, batch, length) for batch in (1, 64) for length in (16, 131072)]
        assert len({fixed_rule(shape, "bfloat16") for shape in shapes}) == 1


@pytest.mark.parametrize("length", [1, 100, 1024, 8192, 131_072])
@pytest.mark.parametrize("batch", [1, 3, 16, 64, 200])
def test_the_rule_fills_the_sms_where_there_is_enough_to_do(batch, length):
    shape = (128, 8, 4, batch, length)
    config = rule(shape, "bfloat16")
    assert config in candidates(shape, "bfloat16")
    # 132 SMs. Pieces below 256 positions may cost more to begin and to merge than they save.
    blocks = blocks_of(shape) * -(-length // config.piece)
    most = blocks_of(shape) * -(-length // 256)
    assert blocks >= min(most, 132)
    assert 64 <= config.piece <= 4096


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_pieces_merge_alike_whichever_block_is_last(seed):
    pages = Pages((130,), (4, 1), 64, 16, "bfloat16")
    expected = pages.run("sim")
    operands = operands_of(pages, "sim")
    (launch,) = plan_joined(**operands)
    args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
    simulate(
        launch.kernel, launch.grid, launch.block, args, launch.shared_bytes,
        schedule="random", seed=seed,
    )  # fmt: skip
    assert launch.grid[0] > 1
    assert not operands["arrived"].any()
    np.testing.assert_array_equal(operands["out"].view("u1"), expected.view("u1"))


@pytest.mark.parametrize(
    ("contexts", "head_dim", "block_size", "counters"),
    [
        ((2049,), 64, 16, True),
        ((300,), 80, 16, True),
        ((300,), 64, 4, True),
        ((300,), 64, 16, False),
    ],
)
def test_what_cannot_be_joined_is_split(contexts, head_dim, block_size, counters):
    pages = Pages(contexts, (4, 1), head_dim, block_size)
    operands = operands_of(pages, "sim") | ({} if counters else {"arrived": None})
    assert plan_joined(**operands) is None
    assert {launch.kernel.__name__ for launch in LADDER.steps[-1].plan(**operands)} == {
        launch.kernel.__name__ for launch in LADDER.step("split").plan(**operands)
    }


@pytest.mark.parametrize("batch", [1, 8, 32, 100])
@pytest.mark.parametrize("length", [1, 100, 512, 2048])
def test_joined_blocks_are_there_at_once(length, batch):
    shape = (64, 8, 4, batch, length)
    pieces = -(-length // joined_piece(shape))
    assert pieces <= MOST_PIECES
    assert pieces == 1 or blocks_of(shape) * pieces <= 2 * 132


# -- What it costs ------------------------------------------------------------------------------


def reports(step, pages):
    """Simulate a step and return its reports."""
    launches = []
    with intercept(launches.append):
        pages.run("sim", step=step)
    found = []
    for launch in launches:
        args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
        found.append(simulate(launch.kernel, launch.grid, launch.block, args, launch.shared_bytes))
    return found


def test_from_the_group_on_each_key_and_value_is_read_once():
    # 64 positions of 2 KV heads, 64 numbers of 2 bytes: 4 sectors each. 4 query heads a KV head.
    pages = Pages((64,), (8, 2), 64, 16, "bfloat16")
    once = 2 * 64 * 2 * 4
    moved = {step: reports(step, pages)[0].global_sectors for step in STEPS}
    assert moved["naive"] > 16 * once
    # Queries, tables, lengths and results come on top.
    assert 4 * once <= moved["online"] <= 1.3 * 4 * once
    for step in ("grouped", "vectorised", "staged", "split"):
        assert once <= moved[step] <= 1.3 * once


# -- What it runs on ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "dtype"), [("vectorised", "float32"), ("staged", "bfloat16"), ("split", "float16")]
)
def test_caches_may_begin_anywhere(dtype, step, device):
    pages = Pages((20,), (4, 2), 16, 16, dtype)
    expected = pages.run(device, step="grouped")
    arrays = [to_device(a, device) for a in (pages.q, pages.tables, pages.contexts)]
    caches = []
    for cache in (pages.k, pages.v):
        memory = to_device(np.zeros(cache.size + 1, dtype), device)
        caches.append(memory[1:].reshape(cache.shape))
        caches[-1][...] = to_device(cache, device)
    q, tables, contexts = arrays
    out = paged_decode_attention(q, *caches, tables, contexts, pages.scale, step=step)
    np.testing.assert_array_equal(to_host(out).view("u1"), expected.view("u1"))


@each_step
def test_no_sequence_is_no_error(step, device):
    pages = Pages((5,), (4, 2), 16, 16)
    assert pages.run(device, rows=slice(0, 0), step=step).shape == (0, 4, 16)


def test_the_result_goes_where_it_should(device):
    pages = Pages((5, 9), (4, 2), 16, 16)
    out = to_device(np.zeros_like(pages.q), device)
    pages.run(device, out=out)
    pages.assert_near(to_host(out))


@pytest.mark.gpu
def test_a_graph_replays_with_other_lengths():
    pages = Pages((300, 40), (4, 2), 64, 16, "bfloat16")
    arrays = [to_device(a, "cuda") for a in (pages.q, pages.k, pages.v, pages.tables)]
    lengths = to_device(pages.contexts, "cuda")
    out = to_device(np.zeros_like(pages.q), "cuda")
    arrived = to_device(np.zeros(8, np.int32), "cuda")

    def decode():
        paged_decode_attention(*arrays, lengths, pages.scale, out=out, arrived=arrived)

    decode()
    graph = capture(decode)
    pages.contexts = np.array([123, 1], np.int32)
    lengths[...] = to_device(pages.contexts, "cuda")
    graph.launch()
    pages.assert_near(to_host(out))


# -- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": np.zeros((2, 16), "f4")}, ["'q'", "3 axes"]),
        ({"q": np.zeros((2, 4, 16), "i4")}, ["'q'", "int32"]),
        ({"q": np.zeros((2, 3, 16), "f4")}, ["'q'", "3 heads", "2"]),
        ({"k_cache": np.zeros((3, 16, 2, 8), "f4")}, ["'k_cache'", "any, any, any, 16"]),
        ({"k_cache": np.zeros((3, 16, 2, 16), "f2")}, ["'k_cache'", "float16"]),
        ({"v_cache": np.zeros((4, 16, 2, 16), "f4")}, ["'v_cache'", "(3, 16, 2, 16)"]),
        ({"block_tables": np.zeros((2, 1), "i8")}, ["'block_tables'", "int64"]),
        ({"block_tables": np.zeros((3, 1), "i4")}, ["'block_tables'", "(2, any)"]),
        ({"context_lens": np.zeros(3, "i4")}, ["'context_lens'", "(2,)"]),
        ({"scale": math.inf}, ["'scale'", "finite"]),
        ({"window": 0}, ["'window'", "from 1"]),
        ({"step": "fast"}, ["'step'", "'fast'", "split"]),
        ({"arrived": np.zeros(8, "i8")}, ["'arrived'", "int64"]),
        ({"arrived": np.zeros(7, "i4")}, ["len(arrived)", "8"]),
        ({"out": np.zeros((2, 4, 8), "f4")}, ["'out'", "(2, 4, 16)"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(changes, words, device):
    operands = {
        "q": np.zeros((2, 4, 16), "f4"),
        "k_cache": np.zeros((3, 16, 2, 16), "f4"),
        "v_cache": np.zeros((3, 16, 2, 16), "f4"),
        "block_tables": np.zeros((2, 1), "i4"),
        "context_lens": np.ones(2, "i4"),
        "scale": 0.25,
    } | changes
    for name, value in operands.items():
        if isinstance(value, np.ndarray):
            operands[name] = to_device(value, device)
    with pytest.raises(KernelArgumentError) as refusal:
        paged_decode_attention(**operands)
    for word in words:
        assert word in str(refusal.value)


def test_a_head_dimension_above_the_limit_is_refused(device):
    pages = Pages((5,), (1, 1), 257, 16)
    with pytest.raises(KernelArgumentError, match="257"):
        pages.run(device)


def test_the_ladder_s_own_operands_agree_with_its_expectation():
    operands = LADDER.operands((16, 2, 3, 2, 37), np.dtype("float32"), 3)
    assert np.isnan(operands["out"]).all()
    exact = [operands[name].astype(float) for name in ("q", "k_cache", "v_cache")]
    rest = [operands[name] for name in ("block_tables", "context_lens", "scale")]
    expected = reference.paged_decode_attention(*exact, *rest)
    np.testing.assert_array_equal(LADDER.expect(**operands)["out"], expected)
    assert TUNABLE.ladder is LADDER
