"""Ranks that share a model give its logits and tokens: every family, both layouts, any stages.

Ranks are threads here; they go through the calls that ranks under MPI go through. Tolerances are
derived in :func:`splitting.tolerance`.
"""

import numpy as np
import pytest
from splitting import (
    GPT2,
    LAYOUTS,
    PIECES,
    Reader,
    files_of,
    in_parts,
    load,
    scored,
    tolerance,
    write_shape,
)

from llm_numba import ops
from llm_numba.errors import ConfigError, ParallelError
from llm_numba.models import Execution, load_config, open_model, rank_config, split_model
from llm_numba.models.composites import Composites
from llm_numba.parallel import Alone, Partition, run_ranks

# Four query heads, but for GPT-2, which has three. Four ranks are more than most have KV heads.
FAMILIES = (
    "llama2",
    "llama3-tied",
    "llama-biases",
    "mistral-window",
    "qwen2",
    "qwen2-layer-types",
    "qwen3-tied",
    "qwen3-biases",
    "gpt2",
    "gpt2-untied",
)
CASES = [(family, ranks) for family in FAMILIES for ranks in ((3,) if "gpt2" in family else (2, 4))]
each_case = pytest.mark.parametrize(("family", "ranks"), CASES)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def hold(parts, whole, dtype):
    """Each rank has the whole model's logits, and all have the same bits."""
    (logits, best), *others = parts
    for more, tokens in others:
        np.testing.assert_array_equal(more, logits)
        np.testing.assert_array_equal(tokens, best)
    assert np.abs(logits - whole[0]).max() <= tolerance(dtype) * np.abs(whole[0]).max()
    np.testing.assert_array_equal(best, ops.argmax(logits))
    assert logits.dtype == whole[0].dtype


# -- Tensor-parallel ranks ----------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@each_case
def test_ranks_give_the_logits_of_the_whole_model(family, ranks, dtype, layout):
    files = files_of(family)
    hold(in_parts(files, ranks, scored, dtype, layout), scored(load(files, dtype)), dtype)


@each_layout
@pytest.mark.parametrize("family", ["qwen3-biases", "llama-biases", "gpt2"])
def test_ranks_with_nothing_fused(family, layout):
    """Then biases, activations and residuals are operations of their own."""
    of_rope = ("fuse_rope_kv", "fuse_rope_attention")
    switches = ("fuse_qkv", "fuse_gate_up", "fuse_norms", *of_rope)
    apart = Execution(tensor_layout=layout, **dict.fromkeys(switches, False))
    files = files_of(family)
    ranks = 3 if family == "gpt2" else 2
    hold(in_parts(files, ranks, scored, execution=apart), scored(load(files)), "float64")


@pytest.mark.parametrize("vocab_size", [271, 5])
def test_a_vocabulary_need_not_divide(tiny_checkpoint, vocab_size):
    files = open_model(tiny_checkpoint(vocab_size=vocab_size, num_key_value_heads=1))
    pieces = [[each % vocab_size for each in piece] for piece in PIECES]

    def read(model):
        return scored(model, pieces)

    hold(in_parts(files, 4, read), read(load(files)), "float64")


@each_layout
@pytest.mark.parametrize("ranks", [2, 4])
def test_gpt2_with_heads_that_divide(tmp_path, monkeypatch, ranks, layout):
    files = write_shape(tmp_path, GPT2, monkeypatch)
    hold(in_parts(files, ranks, scored, layout=layout), scored(load(files)), "float64")


def test_each_scale_of_attention_stays_with_its_layer(tmp_path, monkeypatch):
    files = write_shape(tmp_path, GPT2 | {"scale_attn_by_inverse_layer_idx": True}, monkeypatch)
    whole, config = load(files), files.config
    stage = load(files, partition=Partition(Alone(), range(1, 3), 3))
    assert stage.config.attention_scales == config.attention_scales[1:]
    hold(in_parts(files, 2, scored), scored(whole), "float64")


def test_a_rank_alone_does_what_it_always_did(tmp_path, monkeypatch):
    """No operation more, none less, and none that knows of other ranks."""
    names = {}
    for partition in (None, Partition.whole(files_of("qwen3").config)):
        model = load(files_of("qwen3"), partition=partition)
        assert type(model.composites) is Composites
        calls = names.setdefault(partition, [])
        with ops.watch(lambda call, calls=calls: calls.append(call.name) or call.run()):
            scored(model)
    found = names[None]
    assert found == names.popitem()[1]
    layer = ["linear", "rope_and_write_kv", "paged_attention", "linear", "linear", "linear"]
    assert found[: 1 + 2 * len(layer)] == ["embedding", *layer, *layer]
    assert set(found) == {"embedding", *layer, "argmax"}


class Counting:
    """Counts what another communicator sends, by operation and size of the operand."""

    def __init__(self, other):
        self.rank, self.size, self.other, self.sent = other.rank, other.size, other, []

    def all_reduce(self, x, op="sum"):
        self.sent.append(("all_reduce", x.size))
        return self.other.all_reduce(x, op)

    def all_gather(self, x):
        self.sent.append(("all_gather", x.size))
        return self.other.all_gather(x)


@pytest.mark.parametrize("ranks", [2, 4])
@each_layout
def test_what_is_sent_is_what_the_formulas_say(ranks, layout):
    """docs/parallel/tensor.md counts messages and numbers by these."""
    files = files_of("qwen2")
    config, count = files.config, len(PIECES[0])
    inner = config.num_heads * config.head_dim, config.intermediate_size

    def run(tensor):
        tensor = Counting(tensor)
        execution = Execution(tensor_layout=layout)
        model = load(files, execution=execution, partition=split_model(config, tensor))
        r = Reader(model).read(PIECES[0])
        model.argmax(r[-1:])
        model.logits(r[-1:])
        return tensor.sent

    stream = count * config.hidden_size
    if layout == "megatron":
        layer = 2 * [("all_reduce", stream)]
    else:
        layer = [
            ("all_gather", size // ranks) for width in inner for size in (count * width, stream)
        ]
    scores = [("all_gather", 2), ("all_gather", -(-config.vocab_size // ranks))]
    for sent in run_ranks(ranks, run):
        assert sent == [("all_reduce", stream), *config.num_layers * layer, *scores]


# -- Stages -------------------------------------------------------------------------------------


def pipeline(files, num_stages, dtype="float64", tensor=None, layout="megatron"):
    """Load each stage, and read with one after the other."""
    execution = Execution(tensor_layout=layout)
    models = [
        load(
            files,
            dtype,
            execution=execution,
            partition=split_model(files.config, tensor or Alone(), stage, num_stages),
        )
        for stage in range(num_stages)
    ]
    readers = [Reader(model) for model in models]
    logits, best = [], []
    for piece in PIECES:
        r = None
        for reader in readers:
            r = reader.read(piece, r)
        logits.append(models[-1].logits(r))
        best.append(models[-1].argmax(r))
    return np.concatenate(logits), np.concatenate(best)


@pytest.mark.parametrize("family", ["llama2", "qwen2-layer-types", "qwen3-tied", "gpt2-untied"])
def test_stages_one_after_another_are_the_model_to_the_bit(family):
    files = files_of(family)
    logits, best = scored(load(files))
    for num_stages in range(1, files.config.num_layers + 1):
        found = pipeline(files, num_stages)
        np.testing.assert_array_equal(found[0], logits)
        np.testing.assert_array_equal(found[1], best)


@each_layout
@pytest.mark.parametrize("family", ["qwen2-layer-types", "qwen3-tied", "gpt2"])
def test_ranks_that_share_each_stage(family, layout):
    files = files_of(family)
    parts = run_ranks(
        3 if family == "gpt2" else 2,
        lambda tensor: pipeline(files, 2, tensor=tensor, layout=layout),
    )
    hold(parts, scored(load(files)), "float64")


def test_a_stage_has_its_layers_and_no_others():
    files = files_of("qwen2-layer-types")
    config = files.config
    for stage in range(2):
        model = load(files, partition=split_model(config, Alone(), stage, 2))
        kept = model.partition.layers
        assert len(model.layers) == model.config.num_layers == len(kept)
        assert model.config.windows == tuple(config.windows[i] for i in kept)
        assert (model.embed_tokens is None) == (stage > 0)
        assert (model.lm_head is None) == (model.final_norm is None) == (stage == 0)


def test_a_tied_embedding_is_on_both_ends():
    files = files_of("qwen3-tied")
    first, last = (
        load(files, partition=split_model(files.config, Alone(), stage, 2)) for stage in range(2)
    )
    assert last.lm_head is last.embed_tokens
    assert first.lm_head is None
    np.testing.assert_array_equal(first.embed_tokens, last.lm_head)


# -- What cannot be divided ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "ranks", "cause", "remedy"),
    [
        ({}, 3, "its 4 query heads do not divide", ": 1, 2, 4."),
        ({}, 8, "its 4 query heads do not divide", ": 1, 2, 4."),
        ({"intermediate_size": 50}, 4, "the 50 inner numbers of its MLP", ": 1, 2."),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 3, "hidden_size": 48},
            2,
            "its 3 KV heads neither divide among the ranks nor the ranks among the heads",
            ": 1, 3, 6, 12.",
        ),
        ({"vocab_size": 3}, 4, "it has 3 tokens", ": 1, 2."),
    ],
)
def test_what_does_not_divide_is_named(tiny_checkpoint, changes, ranks, cause, remedy):
    config = load_config(tiny_checkpoint(**changes))
    with pytest.raises(ConfigError) as caught:
        run_ranks(ranks, lambda tensor: split_model(config, tensor))
    assert cause in caught.value.cause
    assert f"among {ranks} tensor-parallel ranks" in caught.value.cause
    assert caught.value.remedy.endswith(remedy)


def test_the_layout_gather_divides_the_hidden_size_too(tiny_checkpoint):
    files = open_model(tiny_checkpoint(hidden_size=30, head_dim=8))
    with pytest.raises(ConfigError, match="its hidden size of 30 does not divide"):
        in_parts(files, 4, scored, layout="gather")
    hold(in_parts(files, 4, scored), scored(load(files)), "float64")


def test_more_stages_than_layers_are_refused():
    with pytest.raises(ParallelError, match="2 layers cannot be divided among 3 pipeline"):
        split_model(files_of("llama2").config, Alone(), 0, 3)


def test_a_rank_is_described_by_what_it_holds():
    config = files_of("mistral-window").config
    parts = run_ranks(4, lambda tensor: rank_config(config, split_model(config, tensor)))
    for part in parts:
        assert (part.num_heads, part.num_kv_heads, part.intermediate_size) == (1, 1, 3)
        assert (part.hidden_size, part.vocab_size, part.windows) == (16, 32, config.windows)
