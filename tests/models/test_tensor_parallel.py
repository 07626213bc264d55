"""Each operation of ranks that share a layer, against the same operation of one that has it all.

Bounds: a closing product adds K numbers of size 1 in another order, which moves each by at most
K units of rounding of the largest partial sum. All else is made whole by one rank, by a product of
fewer rows of the weight: BLAS may add in another order there, too.
"""

import dataclasses

import numpy as np
import pytest
from splitting import LAYOUTS, files_of

from llm_numba import ops
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Execution, ForwardBatch, rank_config, split_model
from llm_numba.models.composites import Composites, Unnormed
from llm_numba.models.split import windows_of
from llm_numba.models.tensor_parallel import composites_of
from llm_numba.parallel import run_ranks

N = 5
RANKS = (1, 2, 4)
LLAMA = "model.layers.0."

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_count = pytest.mark.parametrize("ranks", RANKS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.fixture(params=[4, 2, 1], ids=lambda heads: f"{heads} KV heads")
def config(request):
    """A layer of 4 query heads of 6, and of 20 inner numbers; 37 tokens."""
    return dataclasses.replace(
        files_of("llama-biases").config,
        num_kv_heads=request.param,
        head_dim=6,
        intermediate_size=20,
        vocab_size=37,
    )


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def on_ranks(config, ranks, layout, function, **switches):
    """Let each rank compute with its composites and with a function that cuts tensors."""
    execution = Execution(tensor_layout=layout, **switches)

    def run(tensor):
        partition = split_model(config, tensor)
        mine = rank_config(config, partition)

        def part(name, array):
            windows = windows_of({name: array.shape}, config, partition, layout)[name]
            pieces = [array[tuple(slice(r.start, r.stop) for r in each)] for each in windows]
            return np.ascontiguousarray(np.concatenate(pieces)) if pieces else None

        return function(composites_of(mine, execution, partition), part)

    return run_ranks(ranks, run)


def hold(parts, whole, terms):
    """Hold each rank's result to the whole's, which are sums of so many terms of size 1."""
    bound = terms * np.finfo(whole.dtype).eps * max(1.0, np.abs(whole).max())
    for part in parts:
        assert part.dtype == whole.dtype
        assert np.abs(part - whole).max() <= bound
        np.testing.assert_array_equal(part, parts[0])


@each_dtype
@each_count
def test_an_embedding_is_looked_up_to_the_bit(config, ranks, dtype):
    table, positions = (random(n, config.hidden_size, dtype=dtype) for n in (37, 9))
    tokens, places = np.arange(0, 37, 3), np.arange(13) % 9

    def embed(run, part):
        mine = part("model.embed_tokens.weight", table)
        learned = part("wpe.weight", positions)
        return run.embed(tokens, mine), run.embed(tokens, mine, places, learned)

    for plain, placed in on_ranks(config, ranks, "megatron", embed):
        np.testing.assert_array_equal(plain, table[tokens])
        np.testing.assert_array_equal(placed, table[tokens] + positions[places])


@each_dtype
@each_layout
@each_count
def test_a_closing_product_adds_bias_and_residual_once(config, ranks, layout, dtype):
    E, K = config.hidden_size, config.num_heads * config.head_dim
    weight, bias = random(E, K, dtype=dtype), random(E, dtype=dtype)
    x, residual = random(N, K, dtype=dtype), random(N, E, dtype=dtype, seed=1)
    name = f"{LLAMA}self_attn.o_proj"

    def close(run, part):
        p, P = (0, 1) if type(run) is Composites else (run.tensor.rank, run.tensor.size)
        mine = np.ascontiguousarray(x[:, p * K // P : (p + 1) * K // P])
        weights = part(f"{name}.weight", weight), part(f"{name}.bias", bias)
        return run.close(mine, *weights, residual)[0]

    whole = x @ weight.T + bias + residual
    hold(on_ranks(config, ranks, layout, close), whole, K + 2)


@each_dtype
@each_count
def test_a_block_closes_with_the_norm_of_the_next(config, ranks, dtype):
    """The sum, bias and residual stream in it once, and its rows divided by their size."""
    E, K = config.hidden_size, config.num_heads * config.head_dim
    weight, bias, scales = (random(*shape, dtype=dtype) for shape in ((E, K), (E,), (E,)))
    x, residual = random(N, K, dtype=dtype), random(N, E, dtype=dtype, seed=1)
    name = f"{LLAMA}self_attn.o_proj"

    def close(run, part):
        p, P = (0, 1) if type(run) is Composites else (run.tensor.rank, run.tensor.size)
        mine = np.ascontiguousarray(x[:, p * K // P : (p + 1) * K // P])
        weights = part(f"{name}.weight", weight), part(f"{name}.bias", bias)
        r, normed = run.close(mine, *weights, residual, scales)
        # A rank alone leaves the norm to the product that follows.
        assert isinstance(normed, Unnormed) == (P == 1)
        return r, ops.rms_norm(*normed, config.norm_eps) if P == 1 else normed

    r = x @ weight.T + bias + residual
    normed = ops.rms_norm(r, scales, config.norm_eps)
    parts = on_ranks(config, ranks, "megatron", close, close_with_norm=True)
    hold([part[0] for part in parts], r, K + 2)
    # Rows have numbers of size K ** 0.5; the norm divides a number's error, and the mean's, by it.
    hold([part[1] for part in parts], normed, 2 * (K + 2) + E + 4)


@each_dtype
@each_layout
@each_count
def test_an_mlp_with_a_gate(config, ranks, layout, dtype):
    E, F = config.hidden_size, config.intermediate_size
    gate, up, down = (random(*shape, dtype=dtype) for shape in ((F, E), (F, E), (E, F)))
    biases = [random(length, dtype=dtype, seed=2) for length in (F, F, E)]
    norm, r = random(E, dtype=dtype), random(N, E, dtype=dtype, seed=3)

    def mlp(run, part):
        names = [f"{LLAMA}mlp.{name}_proj" for name in ("gate", "up", "down")]
        weights = [part(f"{n}.weight", w) for n, w in zip(names, (gate, up, down), strict=True)]
        mine = [part(f"{n}.bias", b) for n, b in zip(names, biases, strict=True)]
        stacked = np.concatenate(weights[:2]), np.concatenate(mine[:2])
        inner = run.gated(run.norm(r, norm), *stacked)
        return run.close(inner, weights[2], mine[2], r)[0]

    (whole,) = on_ranks(config, 1, layout, mlp)
    # Numbers in between are of size E, and so are their roundings.
    hold(on_ranks(config, ranks, layout, mlp), whole, (E + 2) * (F + 2))


@each_dtype
@each_layout
@each_count
def test_attention_with_heads_of_ones_own(config, ranks, layout, dtype):
    E, D = config.hidden_size, config.head_dim
    shapes = {"q": config.num_heads * D, "k": config.num_kv_heads * D, "v": config.num_kv_heads * D}
    weights = {n: random(rows, E, dtype=dtype) / E for n, rows in shapes.items()}
    out = random(E, shapes["q"], dtype=dtype)
    r, norm = random(N, E, dtype=dtype), np.ones(E, dtype)
    places, block = np.arange(N, dtype=np.int32), np.zeros((1, 1), np.int32)
    ends = np.array([0, N], np.int32), np.array([N], np.int32)
    batch = ForwardBatch(places, places, places, block, *ends)

    def attend(run, part):
        names = [f"{LLAMA}self_attn.{name}_proj.weight" for name in "qkv"]
        stacked = np.concatenate(
            [part(name, weights[which]) for name, which in zip(names, "qkv", strict=True)]
        )
        cache = PagedKVCache(1, 1, N, run.config.num_kv_heads, D, np.dtype(dtype))
        mixed = run.attention(0, run.qkv(run.norm(r, norm), stacked, None), batch, cache)
        return run.close(mixed, part(f"{LLAMA}self_attn.o_proj.weight", out), None, r)[0]

    (whole,) = on_ranks(config, 1, layout, attend)
    hold(on_ranks(config, ranks, layout, attend), whole, (E + 2) * (shapes["q"] + 2))


@each_layout
@each_count
def test_scores_are_gathered_in_the_order_of_tokens(config, ranks, layout):
    scores = random(N, 37)

    def gather(run, part):
        mine = scores if type(run) is Composites else scores[:, slice_of(run)]
        return run.whole_rows(np.ascontiguousarray(mine))

    for gathered in on_ranks(config, ranks, layout, gather):
        np.testing.assert_array_equal(gathered, scores)
        assert gathered.flags.c_contiguous


@each_count
def test_the_best_token_is_that_of_the_whole_row(config, ranks):
    scores = random(8, 37)
    scores[0, [5, 20, 36]] = scores[1, [9, 18]] = 7.0  # within a rank's part, and across
    scores[2, 30] = np.nan
    scores[3, 30], scores[3, 1] = np.inf, np.nan
    scores[4] = -np.inf
    scores[5, 2:] = -np.inf
    scores[6, 4] = np.inf

    def choose(run, part):
        mine = scores if type(run) is Composites else scores[:, slice_of(run)]
        return run.best_tokens(np.ascontiguousarray(mine))

    last = int(scores[7].argmax())
    expected = [5, 9, -1, -1, -1, int(scores[5].argmax()), -1, last]
    for best in on_ranks(config, ranks, "megatron", choose):
        assert best.tolist() == expected


def slice_of(run):
    mine = run.vocabulary[run.tensor.rank]
    return slice(mine.start, mine.stop)
