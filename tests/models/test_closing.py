"""Blocks that end with the next block's norm, where ranks share a model.

Ranks of the CPU add up, then add the residual stream and normalise. Ranks of the simulator do so in
one kernel on memory that all of them see, as GPUs do on the path ``peer``: all launches of all
ranks run at the same time there, and whatever is not ordered is found.

The bounds on logits are those of :func:`splitting.tolerance`: what is rounded differs from that of
other ranks' models, and as little.
"""

import functools

import numpy as np
import pytest
from splitting import PIECES, Reader, files_of, in_parts, load, scored, tokens, tolerance

from llm_numba import ops
from llm_numba.kernels import peer
from llm_numba.kvcache import PagedKVCache
from llm_numba.models import Execution, ForwardBatch, split_model
from llm_numba.parallel.partition import Seat
from llm_numba.parallel.peer import simulated_links
from llm_numba.parallel.peer_ipc import PeerCommunicator
from llm_numba.runtime import intercept, launch, to_host, upload
from llm_numba.runtime.devices import simulate_ranks

ON = Execution(close_with_norm=True)
# More rows than the links have teams, and no more than the kernels of few rows take.
PROMPT = PIECES[0][:3]
FAMILIES = ("llama-biases", "qwen2-layer-types", "qwen3-tied", "gpt2")


def ranks_of(family):
    return (3,) if family == "gpt2" else (2, 4)


def assert_near(found, whole, dtype):
    assert np.abs(found - whole).max() <= tolerance(dtype) * np.abs(whole).max()


# -- On ranks of the CPU, which are threads -----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("family", "ranks"), [(family, ranks) for family in FAMILIES for ranks in ranks_of(family)]
)
def test_ranks_give_the_logits_of_the_whole_model(family, ranks, dtype):
    files = files_of(family)
    whole, best = scored(load(files, dtype))
    for logits, tokens_ in in_parts(files, ranks, scored, dtype, execution=ON):
        assert_near(logits, whole, dtype)
        np.testing.assert_array_equal(tokens_, best)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_whose_arrays_are_of_a_device_without_links(ranks):
    """Sums go through the host; the norm behind them is a kernel."""
    files = files_of("qwen3-tied")
    whole, _ = scored(load(files), PIECES[1:])
    read = functools.partial(scored, pieces=PIECES[1:], device="sim")
    for logits, _ in in_parts(files, ranks, read, "float32", execution=ON, device="sim"):
        assert_near(logits, whole, "float32")


def operations(family, execution):
    """The operations of each of two or three ranks, of its products with what they add."""

    def run(model):
        names = []

        def note(call):
            added = "+" if call.kwargs.get("residual") is not None else ""
            names.append(call.name + added + ("n" if "norm_weight" in call.kwargs else ""))
            return call.run()

        reader = Reader(model)
        with ops.watch(note):
            reader.read(PIECES[0])
        return names

    return in_parts(files_of(family), ranks_of(family)[0], run, execution=execution)


def test_the_residual_stream_is_added_to_the_sum_and_not_by_rank_0():
    opening = ["rope_and_write_kv", "paged_attention"]
    usual = ["linearn", *opening, "linear+", "linearn", "linear+"]
    for rank, names in enumerate(operations("qwen3-tied", Execution())):
        expected = ["embedding_part", *usual, *usual]
        assert names == [name if rank == 0 else name.replace("+", "") for name in expected]
    first = ["linearn", *opening, "linear", "add_rms_norm", "linear", "linear", "add_rms_norm"]
    # The final norm waits for the rows that are scored, so the last block ends as ever.
    last = ["linear", *opening, "linear", "add_rms_norm", "linear", "linear+"]
    for rank, names in enumerate(operations("qwen3-tied", ON)):
        expected = ["embedding_part", *first, *last]
        assert names == [name if rank == 0 else name.replace("+", "") for name in expected]


def test_a_layer_norm_stays_a_kernel_of_its_own():
    assert operations("gpt2", ON) == operations("gpt2", Execution())
    layer = ["layer_norm", "linear", "rope_and_write_kv", "paged_attention", "linear+"]
    names = operations("gpt2", ON)[0]
    assert names[-7:] == [*layer, "layer_norm", "linear", "linear+"][-7:]


def test_a_token_has_the_same_bits_in_chunks():
    """Where the batch may not matter, the closing step may not make it matter."""
    execution = Execution(batch_invariant=True, close_with_norm=True)
    text = tokens(12)

    def read(model):
        whole, single = (
            scored(model, [text[i : i + n] for i in range(0, 12, n)])[0] for n in (12, 1)
        )
        return whole, single

    for whole, single in in_parts(files_of("qwen2"), 2, read, "float32", execution=execution):
        np.testing.assert_array_equal(whole, single)


# -- On simulated devices that see each other's memory ------------------------------------------


def on_peers(family, ranks, execution, dtype="float32"):
    """Load a model's parts; each rank's arrays go by a link."""
    files, models = files_of(family), []
    for link in simulated_links(ranks, teams=2, room_bytes=256):
        comm = PeerCommunicator(Seat(link.rank, ranks), link)
        part = split_model(files.config, comm)
        models.append(load(files, dtype, device="sim", execution=execution, partition=part))
    return models


def read_on_peers(models, piece, **options):
    """Read on all ranks at the same time: the stream behind the layers, the best tokens."""
    results = []

    def program(model):
        r = Reader(model, "sim").read(piece)
        results.append((r, model.argmax(r)))

    simulate_ranks([functools.partial(program, model) for model in models], **options)
    return [tuple(map(to_host, each)) for each in results]


def launched(model):
    """Names of the kernels of a prompt of one token."""
    launches = []
    with intercept(launches.append):
        Reader(model, "sim").read([3])
    return [each.kernel.py_func.__name__ for each in launches]


def test_one_kernel_ends_a_block():
    model = on_peers("qwen3-tied", 2, ON)[0]
    names = launched(model)
    # Two layers: the embedding's sum, three blocks that end with a norm, and the last.
    assert [each for each in names if each in ("pushed", "pushed_norm", "norm_added")] == [
        "pushed",
        *["pushed_norm"] * 3,
        "pushed",
    ]
    assert len(names) == len(launched(on_peers("qwen3-tied", 2, Execution())[0]))


@pytest.mark.parametrize(
    ("family", "ranks", "dtype"),
    [
        ("llama-biases", 2, "float32"),
        pytest.param("qwen2-layer-types", 4, "float32", marks=pytest.mark.slow),
        pytest.param("qwen3-tied", 4, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_one_kernel_or_two_give_the_same_bits_on_every_rank(family, ranks, dtype, monkeypatch):
    models = on_peers(family, ranks, ON, dtype)
    together = read_on_peers(models, PROMPT, schedule="ordered")
    # Now a norm has a kernel of its own, behind a sum in two steps.
    for shorter in ("push_is_shorter", "one_shot_is_shorter"):
        monkeypatch.setattr(peer, shorter, lambda nbytes, ranks: False)
    assert {"two_shot", "norm_added"} < set(launched(models[0]))
    apart = read_on_peers(models, PROMPT, schedule="ordered")
    for r, best in (*together, *apart):
        np.testing.assert_array_equal(r.view(np.uint8), together[0][0].view(np.uint8))
        np.testing.assert_array_equal(best, together[0][1])
    if dtype == "float32":
        whole = load(files_of(family))
        stream = Reader(whole).read(PROMPT)
        assert_near(together[0][0], stream, dtype)
        np.testing.assert_array_equal(together[0][1], whole.argmax(stream))


def test_a_step_that_was_captured_reads_on():
    """A graph repeats launches with the same arguments: only what lies in memory has changed."""
    models, text = on_peers("qwen3-tied", 2, ON), tokens(4)
    captured, inputs, streams = [], [], []
    for model in models:
        config = model.config
        heads = (config.num_kv_heads, config.head_dim)
        cache = PagedKVCache(config.num_layers, 1, len(text), *heads, model.anchor.dtype, "sim")
        # One row: its token, position, slot, blocks, where it begins and ends, its context.
        values = ([0], [0], [0], [[0]], [0, 1], [1])
        arrays = [np.asarray(each, np.int32) for each in values]
        batch, launches = ForwardBatch(*upload(arrays, like=model.anchor)), []
        with intercept(launches.append):
            streams.append(model.forward(batch, cache))
        inputs.append(batch)
        captured.append(launches)

    def replay(launches):
        for each in launches:
            launch(*each)

    found = []
    for place, token in enumerate(text):
        for batch in inputs:
            batch.token_ids[...] = token
            batch.positions[...] = batch.slot_mapping[...] = place
            batch.context_lens[...] = place + 1
        simulate_ranks([functools.partial(replay, each) for each in captured], schedule="ordered")
        np.testing.assert_array_equal(*map(to_host, streams))
        found.append(to_host(streams[0]))
    expected = Reader(load(files_of("qwen3-tied"))).read(text)
    assert_near(np.concatenate(found), expected, "float32")
