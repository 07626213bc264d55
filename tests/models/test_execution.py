"""Each way to run a model gives its logits; the batch-invariant way gives the same bits always.

Fused or not, the operations are the same; only roundings differ, and the order in which BLAS adds
where a product is cut. In float64 that is some units of 1e-16 of the largest number on the way,
and 1e-11 leaves room for a thousand of them in each of two layers. The simulator computes in
float32, 2**29 times coarser, and rounds what fused kernels keep in registers: its bound is that
of tests/golden for float32.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

from llm_numba.errors import EngineError
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Decoder, Execution, ForwardBatch, load_model, open_model
from llm_numba.runtime import intercept, overlapping, to_host, upload

FIXTURES = Path(__file__).parents[1] / "golden" / "fixtures"
FAMILIES = ("llama3", "qwen2", "qwen3", "gpt2")
SWITCHES = [
    field.name
    for field in dataclasses.fields(Execution)
    if field.type is bool and field.name != "batch_invariant"
]
LENGTH, BLOCK_SIZE = 40, 4


# The simulator takes seconds for each: one family always, the others with the slow tests.
ON_DEVICES = [
    pytest.param("sim", "qwen3"),
    *(pytest.param("sim", each, marks=pytest.mark.slow) for each in FAMILIES if each != "qwen3"),
    *(pytest.param("cuda", each, marks=pytest.mark.gpu) for each in FAMILIES),
]
on_each_device = pytest.mark.parametrize(("device", "family"), ON_DEVICES)
everywhere = pytest.mark.parametrize(
    ("device", "family"), [*(("cpu", each) for each in FAMILIES), *ON_DEVICES]
)


def without(*names: str) -> Execution:
    """An Execution with switches off, and with those off that cannot be on then."""
    if "fuse_qkv" in names:
        names = (*names, "fuse_rope_kv")
    if "fuse_rope_kv" in names:
        names = (*names, "fuse_rope_attention")
    return Execution(**dict.fromkeys(names, False))


@functools.cache
def model_of(family: str, execution: Execution, dtype: str, device: str = "cpu") -> Decoder:
    files = open_model(FIXTURES / family)
    return load_model(files, np.dtype(dtype), LENGTH, device=device, execution=execution)


class Sequences:
    """Sequences in a cache of their own, computed piece by piece as one says."""

    def __init__(self, model: Decoder, device: str = "cpu") -> None:
        config = model.config
        heads = (config.num_kv_heads, config.head_dim)
        dtype = model.lm_head.dtype
        self.model = model
        self.cache = PagedKVCache(config.num_layers, 64, BLOCK_SIZE, *heads, dtype, device)
        self.tables = {}

    def step(self, **pieces: list[int]) -> dict[str, np.ndarray]:
        """Compute the next tokens of sequences, by name, and score what follows each."""
        names, counts = list(pieces), [len(piece) for piece in pieces.values()]
        tables = [self.tables.setdefault(name, self.cache.new_table()) for name in names]
        positions, slots = [], []
        for table, count in zip(tables, counts, strict=True):
            positions += range(table.num_tokens, table.num_tokens + count)
            slots += table.append_slots(count)
        width = max(len(table.blocks) for table in tables)
        lists = (
            list(itertools.chain(*pieces.values())),
            positions,
            slots,
            [table.blocks + [0] * (width - len(table.blocks)) for table in tables],
            [0, *itertools.accumulate(counts)],
            [table.num_tokens for table in tables],
        )
        arrays = [np.asarray(values, np.int32) for values in lists]
        batch = ForwardBatch(*upload(arrays, like=self.model.lm_head))
        logits = to_host(self.model.logits(self.model.forward(batch, self.cache)))
        return dict(zip(names, np.split(logits, np.cumsum(counts)[:-1]), strict=True))


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(32, size=count).tolist()


# -- Switches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_switch_changes_roundings_and_nothing_else(family, switch):
    fused, apart = (
        Sequences(model_of(family, each, "float64")) for each in (Execution(), without(switch))
    )
    for piece in (tokens(9), tokens(1, 1)):
        expected, found = (each.step(a=piece)["a"] for each in (fused, apart))
        assert np.abs(found - expected).max() <= 1e-11 * np.abs(expected).max()


@on_each_device
def test_nothing_fused_gives_the_logits_of_everything_fused_on_a_device(device, family):
    expected = Sequences(model_of(family, Execution(), "float64")).step(a=tokens(5))["a"]
    apart = Sequences(model_of(family, without(*SWITCHES), "float32", device), device)
    found = apart.step(a=tokens(5))["a"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("switch", "of_a_layer", "of_the_model"),
    [
        # Three products for one; behind them two rotations and the KV write for one kernel.
        ("fuse_qkv", 2 + 2, 0),
        # Two products, SiLU and a multiplication.
        ("fuse_gate_up", 3, 0),
        # Two norms and two additions of a layer, and the norm before the LM head.
        ("fuse_norms", 4, 1),
        ("fuse_rope_kv", 2, 0),
        ("fuse_sampling", 0, 0),
    ],
)
def test_a_switch_takes_launches_apart(switch, of_a_layer, of_the_model):
    def count(execution: Execution) -> int:
        model = model_of("llama3", execution, "float32", "sim")
        launches = []
        with intercept(launches.append):
            Sequences(model, "sim").step(a=[5])
        return len(launches)

    more = count(without(switch)) - count(Execution())
    assert (
        more
        == of_a_layer * model_of("llama3", Execution(), "float64").config.num_layers + of_the_model
    )


@on_each_device
def test_overlapping_launches_change_no_bit(device, family):
    model = model_of(family, Execution(), "float32", device)
    # The simulator overlaps nothing; but there, too, other kernels may be chosen.
    answer = tokens(3 if device == "cuda" else 1, 1)
    found = {}
    for wanted in (False, True):
        sequences = Sequences(model, device)
        with overlapping(wanted):
            pieces = (tokens(5), *([token] for token in answer))
            found[wanted] = [sequences.step(a=piece)["a"] for piece in pieces]
    for apart, together in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(apart, together)


def test_fused_rope_needs_what_it_turns_in_one_array():
    with pytest.raises(EngineError, match="fuse_qkv=False makes three"):
        Execution(fuse_qkv=False)
    with pytest.raises(EngineError, match="fuse_rope_kv=False takes several"):
        Execution(fuse_rope_kv=False)


# -- Bits that do not depend on the batch -------------------------------------------------------

INVARIANT = Execution(batch_invariant=True)
PROMPT, ANSWER = tokens(10), tokens(2, 1)


def invariant_model(family: str, device: str) -> Decoder:
    return model_of(family, INVARIANT, "float32" if device == "cpu" else "bfloat16", device)


def alone(model: Decoder, device: str) -> np.ndarray:
    """Logits of the prompt at once, and of the answer token by token."""
    sequences = Sequences(model, device)
    pieces = [PROMPT, *([token] for token in ANSWER)]
    return np.concatenate([sequences.step(a=piece)["a"] for piece in pieces])


@everywhere
def test_a_token_has_the_same_bits_in_any_company(device, family):
    model = invariant_model(family, device)
    sequences = Sequences(model, device)
    steps = [
        {"b": [7], "a": PROMPT, "c": tokens(2, 3)},
        {"c": [9], "d": tokens(8, 4), "a": ANSWER[:1]},
        {"a": ANSWER[1:], "b": [4], "c": [11], "d": [3]},
    ]
    found = [result["a"] for step in steps if "a" in (result := sequences.step(**step))]
    np.testing.assert_array_equal(np.concatenate(found), alone(model, device))


@everywhere
def test_a_token_has_the_same_bits_in_chunks_and_computed_anew(device, family):
    model = invariant_model(family, device)
    sequences = Sequences(model, device)
    chunks = [
        sequences.step(a=PROMPT[:3], b=[5])["a"],
        sequences.step(a=PROMPT[3:4])["a"],
        sequences.step(c=tokens(5, 6), a=PROMPT[4:])["a"],
    ]
    anew = Sequences(model, device).step(a=PROMPT + ANSWER)["a"]
    expected = alone(model, device)
    np.testing.assert_array_equal(np.concatenate(chunks), expected[: len(PROMPT)])
    np.testing.assert_array_equal(anew, expected)


def test_without_it_the_bits_may_depend_on_the_company():
    """Else the tests above would show nothing."""
    model = model_of("llama3", Execution(), "float32")
    anew = Sequences(model).step(a=PROMPT + ANSWER)["a"]
    assert (anew != alone(model, "cpu")).any()


@pytest.mark.parametrize(
    ("device", "batches"),
    [
        ("cpu", 200),
        pytest.param("sim", 5, marks=pytest.mark.slow),
        pytest.param("cuda", 200, marks=pytest.mark.gpu),
    ],
)
def test_random_batches_change_no_bit(device, batches):
    """Some sequences, each cut anywhere, each piece beside any others."""
    model = invariant_model("qwen3", device)
    rng = np.random.default_rng(0)
    texts = {name: tokens(int(rng.integers(2, 24)), i) for i, name in enumerate("abcdef")}
    expected = {name: Sequences(model, device).step(t=text)["t"] for name, text in texts.items()}
    done, sequences = {}, Sequences(model, device)
    for _ in range(batches):
        chosen = rng.permutation(list(texts))[: rng.integers(1, len(texts) + 1)]
        pieces = {}
        for name in chosen:
            begin = done.get(name, 0)
            end = min(len(texts[name]), begin + int(rng.choice([1, 1, 2, 5, 12])))
            pieces[name], done[name] = texts[name][begin:end], end
        for name, found in sequences.step(**pieces).items():
            end = done[name]
            np.testing.assert_array_equal(found, expected[name][end - len(found) : end])
            if end == len(texts[name]):
                sequences.tables.pop(name).free()
                del done[name]
