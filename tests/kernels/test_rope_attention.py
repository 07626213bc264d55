"""RoPE, the KV write and attention of decoding steps, against float64, over poisoned caches.

Bounds, in units u of float32. A turned number is two products and a sum, each off by u of what
stands there: by 3 u of the head's size at most. A key is rounded once more, to its storage format,
and attention is held to the keys that lie in the cache afterwards. For the rest see
``test_paged_decode``; to the D + 4 operations of a score come those of the query's rotation.
"""

import math

import ml_dtypes
import numpy as np
import pytest

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels.paged_decode_plans import plan_turning
from llm_numba.kernels.rope_attention import LADDER, rope_and_decode_attention
from llm_numba.runtime import capture, kernel_view, launch_all, to_device, to_host
from llm_numba.simulator import simulate

STEPS = [step.name for step in LADDER.steps]
each_step = pytest.mark.parametrize("step", STEPS)
U = 2.0**-24
LONGEST = 400


class Tokens:
    """New tokens of sequences, over caches in which all that no sequence owns is NaN.

    So is what the new tokens will have: their own keys and values are not there yet.
    """

    def __init__(self, contexts, heads, head_dim, block_size=16, dtype="float32", turning=None):
        rng = np.random.default_rng([*contexts, *heads, head_dim, block_size])
        (num_heads, groups), batch = heads, len(contexts)
        counts = [-(-length // block_size) for length in contexts]
        shape = (sum(counts) + 1, block_size, groups, head_dim)
        free = iter(rng.permutation(shape[0]).tolist())
        self.tables = np.full((batch, max([*counts, 1]) + 1), next(free), np.int32)
        self.k, self.v = (np.full(shape, np.nan).astype(dtype) for _ in range(2))
        self.slots = np.full(batch, -1, np.int32)
        for b, (length, count) in enumerate(zip(contexts, counts, strict=True)):
            self.tables[b, :count] = [next(free) for _ in range(count)]
            for p in range(length):
                row = self.tables[b, p // block_size], p % block_size
                self.k[row], self.v[row] = rng.normal(size=(2, groups, head_dim))
            if length:
                self.k[row] = self.v[row] = np.nan
                self.slots[b] = row[0] * block_size + row[1]
        self.qkv = rng.normal(size=(batch, (num_heads + 2 * groups) * head_dim)).astype(dtype)
        self.contexts = np.array(contexts, np.int32)
        self.positions = np.maximum(self.contexts - 1, 0)
        turning = head_dim if turning is None else turning
        frequencies = reference.rope_frequencies(turning, 100.0, reference.RopeScaling())
        self.cos, self.sin = reference.rope_tables(frequencies, LONGEST, np.float32)
        self.scale, self.num_heads = head_dim**-0.5, num_heads

    def operands(self, device):
        """Place the arrays on a device, by the names of the operation's arguments."""
        arrays = {
            "qkv": self.qkv, "positions": self.positions, "cos": self.cos, "sin": self.sin,
            "k_cache": self.k, "v_cache": self.v, "slot_mapping": self.slots,
            "block_tables": self.tables, "context_lens": self.contexts,
            "arrived": np.zeros(len(self.qkv) * self.num_heads, np.int32),
        }  # fmt: skip
        placed = {name: to_device(array.copy(), device) for name, array in arrays.items()}
        return placed | {"scale": self.scale}

    def assert_right(self, device, window=None, **options):
        """Run it on a device, and hold the result and both caches to what they should be."""
        operands = self.operands(device) | {"window": window} | options
        out = to_host(rope_and_decode_attention(**operands))
        assert not to_host(operands["arrived"]).any()
        k, v = (to_host(operands[name]) for name in ("k_cache", "v_cache"))
        self._assert_kept(k, v)
        self._assert_near(out, k, v, window)
        return out

    def _assert_kept(self, k, v):
        exact = [a.astype(np.float64) for a in (self.qkv, self.cos, self.sin, self.k, self.v)]
        qkv, cos, sin, wanted_k, wanted_v = exact
        q = reference.rope_and_write_kv(
            qkv, self.positions, cos, sin, wanted_k, wanted_v, self.slots
        )
        self.q = q
        storage = ml_dtypes.finfo(self.k.dtype)
        fresh = np.zeros(wanted_k.shape[:2], bool)
        fresh.flat[self.slots[self.slots >= 0]] = True
        np.testing.assert_array_equal(k[~fresh].view("u1"), self.k[~fresh].view("u1"))
        np.testing.assert_array_equal(v[~fresh].view("u1"), self.v[~fresh].view("u1"))
        np.testing.assert_array_equal(v[fresh].astype(np.float64), wanted_v[fresh])
        sizes = np.linalg.norm(wanted_k[fresh], axis=-1, keepdims=True)
        bound = 3 * U * sizes + float(storage.eps) / 2 * np.abs(wanted_k[fresh])
        bound += float(storage.smallest_subnormal)
        assert (np.abs(k[fresh].astype(np.float64) - wanted_k[fresh]) <= bound).all()

    def _assert_near(self, out, k, v, window):
        k, v = (np.nan_to_num(each.astype(np.float64)) for each in (k, v))
        where = (self.tables, self.contexts, self.scale, window)
        truth = reference.paged_decode_attention(self.q, k, v, *where)
        mixed = reference.paged_decode_attention(self.q, k, np.abs(v), *where)
        sizes = [np.linalg.norm(each, axis=-1).max() for each in (self.q, k)]
        reach = self.scale * math.log2(math.e) * math.prod(sizes)
        length, head_dim = max(self.contexts), self.q.shape[-1]
        storage = ml_dtypes.finfo(self.qkv.dtype)
        # Where queries pass through memory they are rounded there: two roundings of a score.
        rounding = 3 * U + float(storage.eps) / 2
        weight = math.log(2) * 2 * ((head_dim + 4) * U + rounding) * reach + (length + 1) * 2.0**-22
        bound = (2 * weight + 2 * length * U) * mixed + float(storage.eps) / 2 * np.abs(truth)
        error = np.abs(out.astype(np.float64) - truth)
        assert (error <= bound + float(storage.smallest_subnormal)).all(), (error / bound).max()


# -- What it computes ---------------------------------------------------------------------------


@each_step
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_contexts_of_all_lengths_over_pages_that_hold_nan_elsewhere(dtype, step, device):
    tokens = Tokens((1, 2, 15, 16, 17, 100, 300), (4, 1), 64, dtype=dtype)
    tokens.assert_right(device, step=step)


@each_step
def test_a_row_of_padding_gives_zeros_and_is_not_kept(step, device):
    tokens = Tokens((0, 20, 0), (4, 1), 64)
    out = tokens.assert_right(device, step=step)
    assert not out[[0, 2]].any()


# Groups: of one query, no power of two, more than a block takes. Heads that cannot turn in
# registers: without packets, with idle lanes, of which a part turns; tiles beyond a block's end.
@pytest.mark.parametrize(
    ("heads", "head_dim", "turning", "block_size", "dtype", "kernel"),
    [
        ((8, 2), 64, 64, 16, "bfloat16", "turning"),
        ((5, 1), 64, 64, 16, "float32", "turning"),
        ((16, 1), 64, 64, 32, "float32", "turning"),
        ((4, 1), 128, 128, 16, "bfloat16", "turning"),
        ((2, 1), 128, 128, 16, "float32", "turning"),
        ((4, 1), 64, 32, 16, "float32", None),
        ((4, 1), 80, 80, 16, "float16", None),
        ((3, 1), 7, 6, 5, "float32", None),
        ((4, 1), 64, 64, 4, "float32", None),
    ],
)
def test_any_head_dimension_group_and_block_size(
    heads, head_dim, turning, block_size, dtype, kernel, device
):
    tokens = Tokens((19, 70), heads, head_dim, block_size, dtype, turning)
    tokens.assert_right(device)
    operands = tokens.operands("sim") | {"window": None}
    out = to_device(np.zeros((2, heads[0], head_dim), dtype), "sim")
    launches = plan_turning(**operands, out=out)
    assert launches is None if kernel is None else launches[0].kernel.__name__ == kernel


@each_step
@pytest.mark.parametrize("window", [1, 7, 64, 1000])
def test_a_window_hides_what_is_older(window, step, device):
    tokens = Tokens((1, 7, 17, 130, 300), (4, 1), 64)
    tokens.assert_right(device, window, step=step)


def test_without_counters_queries_turn_in_a_launch_of_their_own(device):
    tokens = Tokens((100,), (4, 1), 64)
    operands = tokens.operands(device) | {"arrived": None}
    rope_and_decode_attention(**operands)
    tokens._assert_kept(*(to_host(operands[name]) for name in ("k_cache", "v_cache")))


@each_step
def test_no_sequence_is_no_error(step, device):
    tokens = Tokens((5,), (4, 1), 64)
    operands = tokens.operands(device)
    for name in ("qkv", "positions", "slot_mapping", "block_tables", "context_lens"):
        operands[name] = operands[name][:0]
    assert rope_and_decode_attention(**operands, step=step).shape == (0, 4, 64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_pieces_merge_alike_whichever_block_is_last(seed):
    tokens = Tokens((130,), (4, 1), 64, dtype="bfloat16")
    expected = tokens.assert_right("sim")
    operands = tokens.operands("sim") | {"window": None}
    out = to_device(np.full_like(expected, np.nan), "sim")
    (launch,) = plan_turning(**operands, out=out)
    args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
    simulate(
        launch.kernel, launch.grid, launch.block, args, launch.shared_bytes,
        schedule="random", seed=seed,
    )  # fmt: skip
    assert launch.grid[0] > 1
    assert not operands["arrived"].any()
    np.testing.assert_array_equal(out.view("u1"), expected.view("u1"))


@pytest.mark.gpu
def test_a_graph_replays_with_other_lengths():
    tokens = Tokens((300, 40), (4, 1), 64, dtype="bfloat16")
    operands = tokens.operands("cuda")
    out = to_device(np.zeros((2, 4, 64), tokens.qkv.dtype), "cuda")

    def decode():
        rope_and_decode_attention(**operands, out=out)

    decode()
    graph = capture(decode)
    shorter = Tokens((123, 1), (4, 1), 64, dtype="bfloat16")
    shorter.tables = np.pad(shorter.tables, ((0, 0), (0, tokens.tables.shape[1])))
    shorter.tables = np.ascontiguousarray(shorter.tables[:, : tokens.tables.shape[1]])
    shorter.k, shorter.v = (
        np.concatenate([each, np.full_like(tokens.k, np.nan)])[: len(tokens.k)]
        for each in (shorter.k, shorter.v)
    )
    for name, array in shorter.operands("cuda").items():
        if name != "scale":
            operands[name][...] = array
    graph.launch()
    k, v = (to_host(operands[name]) for name in ("k_cache", "v_cache"))
    shorter._assert_kept(k, v)
    shorter._assert_near(to_host(out), k, v, None)


# -- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qkv": np.zeros((2, 2, 96), "f4")}, ["'qkv'", "3 axes"]),
        ({"qkv": np.zeros((2, 97), "f4")}, ["'qkv'", "(any, 96)"]),
        ({"qkv": np.zeros((2, 32), "f4")}, ["heads of q", "-2"]),
        ({"qkv": np.zeros((2, 112), "f4")}, ["'qkv'", "3 query heads", "2"]),
        ({"k_cache": np.zeros((3, 16, 2, 16), "f2")}, ["'k_cache'", "float16"]),
        (
            dict.fromkeys(("k_cache", "v_cache"), np.zeros((3, 16, 2, 257), "f4")),
            ["k_cache.shape[3]", "257"],
        ),
        ({"v_cache": np.zeros((4, 16, 2, 16), "f4")}, ["'v_cache'", "(3, 16, 2, 16)"]),
        ({"positions": np.zeros(3, "i4")}, ["'positions'", "(2,)"]),
        ({"slot_mapping": np.zeros(2, "i8")}, ["'slot_mapping'", "int64"]),
        ({"block_tables": np.zeros((3, 1), "i4")}, ["'block_tables'", "(2, any)"]),
        ({"context_lens": np.zeros(1, "i4")}, ["'context_lens'", "(2,)"]),
        ({"cos": np.zeros((9, 9), "f4")}, ["2 * cos.shape[1]", "16"]),
        ({"sin": np.zeros((9, 4), "f4")}, ["'sin'", "(9, 8)"]),
        ({"scale": math.nan}, ["'scale'", "finite"]),
        ({"window": 0}, ["'window'", "from 1"]),
        ({"step": "fast"}, ["'step'", "'fast'", "apart"]),
        ({"arrived": np.zeros(7, "i4")}, ["len(arrived)", "8"]),
        ({"out": np.zeros((2, 4, 8), "f4")}, ["'out'", "(2, 4, 16)"]),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_with_what_is_needed(changes, words, device):
    operands = {
        "qkv": np.zeros((2, 128), "f4"),
        "positions": np.zeros(2, "i4"),
        "cos": np.zeros((9, 8), "f4"),
        "sin": np.zeros((9, 8), "f4"),
        "k_cache": np.zeros((3, 16, 2, 16), "f4"),
        "v_cache": np.zeros((3, 16, 2, 16), "f4"),
        "slot_mapping": np.zeros(2, "i4"),
        "block_tables": np.zeros((2, 1), "i4"),
        "context_lens": np.ones(2, "i4"),
        "scale": 0.25,
    } | changes
    for name, value in operands.items():
        if isinstance(value, np.ndarray):
            operands[name] = to_device(value, device)
    with pytest.raises(KernelArgumentError) as refusal:
        rope_and_decode_attention(**operands)
    for word in words:
        assert word in str(refusal.value)


def test_the_ladder_s_own_operands_agree_with_its_expectation():
    operands = LADDER.operands((64, 1, 4, 1, 37), np.dtype("float32"), 3)
    assert np.isnan(operands["out"]).all()
    expected = LADDER.expect(**operands)
    placed = {
        name: to_device(value, "sim") if isinstance(value, np.ndarray) else value
        for name, value in operands.items()
    }
    launch_all(LADDER.steps[-1].plan(**placed))
    for name, array in expected.items():
        np.testing.assert_allclose(to_host(placed[name]), array, atol=1e-5)
