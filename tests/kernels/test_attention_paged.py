"""Attention over a paged cache: batches of any mixture, and what must not leak into them.

The bound on the error is derived in ``attention_cases``.
"""

import math

import numpy as np
import pytest
from attention_cases import Batch

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import attention_paged
from llm_numba.kernels.attention import paged_attention
from llm_numba.kernels.attention_places import most_tiles
from llm_numba.kernels.attention_register_tile import Config
from llm_numba.runtime import intercept, kernel_view, to_device, to_host
from llm_numba.simulator import simulate


def run(batch, *args, device, **kwargs):
    arrays = (to_device(array, device) for array in batch.arrays)
    return to_host(paged_attention(*arrays, *args, **kwargs))


# -- What it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "contexts"),
    [
        ([1, 1, 1], [33, 1, 127]),
        ([31], [31]),
        ([5, 1, 1, 9], [5, 64, 1, 67]),
        ([0, 3, 0, 0, 40, 0], [9, 3, 1, 2, 41, 5]),
    ],
)
def test_each_sequence_attends_to_its_own_context(queries, contexts, device):
    batch = Batch(queries, contexts, 4, 2, 8)
    batch.assert_near(run(batch, 0.3, device=device), 0.3)


@pytest.mark.parametrize(
    ("H", "G", "D", "dtype"),
    [(4, 4, 8, "float32"), (5, 1, 33, "float32"), (6, 2, 8, "float16"), (6, 2, 8, "bfloat16")],
)
def test_groups_head_sizes_and_formats(H, G, D, dtype, device):
    batch = Batch([7, 1], [9, 35], H, G, D, dtype=dtype)
    scale = 1 / math.sqrt(D)
    batch.assert_near(run(batch, scale, device=device), scale)


@pytest.mark.parametrize("window", [1, 16, 1000])
def test_a_window_hides_what_lies_further_back(window, device):
    batch = Batch([9, 1, 3], [67, 31, 3], 2, 1, 8)
    batch.assert_near(run(batch, 0.5, window, device=device), 0.5, window)


@pytest.mark.parametrize("block_size", [1, 3, 256])
def test_blocks_may_have_any_size(block_size, device):
    batch = Batch([9, 2], [67, 31], 2, 1, 8, block_size)
    batch.assert_near(run(batch, 0.5, device=device), 0.5)


@pytest.mark.gpu
@pytest.mark.parametrize(("D", "dtype"), [(64, "float32"), (128, "bfloat16")])
def test_a_large_batch(D, dtype):
    queries = [1, 300, 1, 127, 64, 0, 1, 511, 1]
    contexts = [2039, 300, 1, 901, 64, 5, 777, 1023, 65]
    batch = Batch(queries, contexts, 8, 2, D, 16, dtype)
    scale = 1 / math.sqrt(D)
    # Numbers of 16 bits go to tensor cores.
    y = run(batch, scale, 500, device="cuda")
    batch.assert_near(y, scale, 500, tensor=dtype != "float32")


# -- What does not matter -----------------------------------------------------------------------


def test_what_a_window_has_left_behind_may_be_anything(device):
    # A sequence may have given back the blocks that no window will reach again.
    batch = Batch([2], [67], 2, 1, 8)
    clean = run(batch, 0.5, 7, device=device, batch_invariant=True)
    seen = 67 - 2 - 7 + 1
    left = batch.slots(0)[:seen]
    batch.caches.reshape(2, -1, 1, 8)[:, left] = np.nan
    batch.block_tables[0, : seen // batch.block_size] = 2**30
    y = run(batch, 0.5, 7, device=device, batch_invariant=True)
    np.testing.assert_array_equal(y, clean)


def test_a_row_is_the_same_to_the_bit_whatever_else_is_in_the_batch(device):
    batch = Batch([9, 1, 40], [20, 77, 40], 4, 2, 8)
    together = run(batch, 0.5, 21, device=device, batch_invariant=True)
    for b, start in enumerate(batch.query_starts[:-1]):
        stop = batch.query_starts[b + 1]
        q, k_cache, v_cache, tables, _, lengths = batch.arrays
        alone = (
            q[start:stop], k_cache, v_cache, tables[b : b + 1],
            np.array([0, stop - start], np.int32), lengths[b : b + 1],
        )  # fmt: skip
        arrays = (to_device(array, device) for array in alone)
        y = to_host(paged_attention(*arrays, 0.5, 21, batch_invariant=True))
        np.testing.assert_array_equal(y, together[start:stop])


@pytest.mark.parametrize(("chunks", "window"), [([1, 68, 1], 50), ([23, 47], None)])
def test_a_prompt_in_chunks_is_the_prompt_at_once_to_the_bit(chunks, window, device):
    batch = Batch([70], [70], 6, 2, 8)
    whole = run(batch, 0.5, window, device=device, batch_invariant=True)
    q, k_cache, v_cache, tables, *_ = (to_device(array, device) for array in batch.arrays)
    done = 0
    for chunk in chunks:
        starts = to_device(np.array([0, chunk], np.int32), device)
        context = to_device(np.array([done + chunk], np.int32), device)
        rows = q[done : done + chunk]
        y = paged_attention(
            rows, k_cache, v_cache, tables, starts, context, 0.5, window, batch_invariant=True
        )
        np.testing.assert_array_equal(to_host(y), whole[done : done + chunk])
        done += chunk


def test_rows_of_no_sequence_are_left_as_they_are(device):
    # A batch padded to a size for which a graph was captured.
    batch = Batch([5, 2], [9, 12], 2, 1, 8)
    q, *others = batch.arrays
    padded = np.concatenate([q, np.full((6, 2, 8), np.nan, np.float32)])
    out = to_device(np.full(padded.shape, 7, np.float32), device)
    arrays = (to_device(array, device) for array in (padded, *others))
    assert paged_attention(*arrays, 0.5, out=out) is out
    batch.assert_near(to_host(out)[:7], 0.5)
    assert (to_host(out)[7:] == 7).all()


def test_a_context_shorter_than_its_queries_shows_nothing_to_the_first(device):
    # No sequence is like this; but a padded one may be, and must stay within its block table.
    batch = Batch([4, 2], [4, 2], 2, 1, 8)
    arrays = (*batch.arrays[:-1], np.array([1, 0], np.int32))
    arrays = [to_device(array, device) for array in arrays]
    y = to_host(paged_attention(*arrays, 0.5))
    assert not y[:3].any()
    np.testing.assert_array_equal(y[3], batch.values[0][0].repeat(2, axis=0))
    assert not y[4:].any()


# -- What runs ----------------------------------------------------------------------------------


def launches(batch, **options):
    found = []
    with intercept(found.append):
        run(batch, 0.5, device="sim", **options)
    return found


def test_single_queries_go_to_the_decode_kernels_unless_bits_must_not_depend_on_it():
    single, mixed = Batch([1, 1], [5, 9], 2, 1, 8), Batch([1, 2], [5, 9], 2, 1, 8)
    names = [
        {launch.kernel.py_func.__name__ for launch in found}
        for found in (launches(single), launches(single, batch_invariant=True), launches(mixed))
    ]
    assert "attention_register_tile" not in names[0]
    assert names[1] == names[2] == {"attention_register_tile"}


def test_the_grid_follows_from_shapes_and_has_a_tile_for_any_split():
    rng = np.random.default_rng(0)
    for _ in range(500):
        group, rows = int(rng.integers(1, 9)), int(rng.choice([32, 64]))
        queries = rng.integers(0, 150, rng.integers(1, 9)) * rng.integers(0, 2)
        needed = sum(math.ceil(n * group / rows) for n in queries)
        assert needed <= most_tiles(sum(queries), len(queries), group, rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_the_threads_matters(seed, monkeypatch):
    # Small tiles, an eighth of the work; two of keys for the first sequence.
    monkeypatch.setattr(attention_paged, "config_for", lambda head_dim: Config(32, 16, 2))
    batch = Batch([3, 0, 2], [20, 3, 2], 2, 1, 8)
    (launch,) = launches(batch)
    args = tuple(kernel_view(a) if isinstance(a, np.ndarray) else a for a in launch.args)
    simulate(*launch._replace(args=args), explain=False, schedule="random", seed=seed)
    batch.assert_near(np.array(args[-1]).reshape(batch.q.shape), 0.5)


# -- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "array", "words"),
    [
        (0, np.zeros((3, 4, 264), np.float32), ["264", "256"]),
        (1, np.zeros((5, 4, 2, 24), np.float32), ["'k_cache'", "(5, 4, 2, 24)"]),
        (1, np.zeros((5, 4, 3, 16), np.float32), ["'v_cache'", "(5, 4, 3, 16)"]),
        (2, np.zeros((6, 4, 2, 16), np.float32), ["'v_cache'", "(6, 4, 2, 16)"]),
        (2, np.zeros((5, 4, 2, 16), np.float16), ["'v_cache'", "float16"]),
        (3, np.zeros((3, 2), np.int32), ["'block_tables'", "(3, 2)", "(2, any)"]),
        (3, np.zeros((2, 2), np.int64), ["'block_tables'", "int64", "int32"]),
        (4, np.zeros(2, np.int32), ["'query_starts'", "(2,)", "(3,)"]),
        (5, np.zeros((2, 1), np.int32), ["'context_lens'", "2 axes"]),
    ],
)
def test_wrong_arguments_are_named_with_what_is_needed(changed, array, words, device):
    caches = np.zeros((2, 5, 4, 2, 16), np.float32)
    arrays = [
        np.zeros((3, 4, 16), np.float32), *caches, np.zeros((2, 2), np.int32),
        np.array([0, 1, 3], np.int32), np.array([1, 4], np.int32),
    ]  # fmt: skip
    arrays[changed] = array
    with pytest.raises(KernelArgumentError) as refusal:
        paged_attention(*(to_device(each, device) for each in arrays), 0.5)
    for word in words:
        assert word in str(refusal.value)
