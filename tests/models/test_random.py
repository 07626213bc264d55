"""Models with random weights: what they are made of, and that they are the same everywhere."""

import numpy as np
import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.errors import ModelNotFoundError, TokenizerError
from llm_numba.models import (
    bundled_models,
    load_config,
    load_model,
    open_model,
    random_shapes,
    resolve_model,
)
from llm_numba.models.random import SHAPES_DIR
from llm_numba.runtime import kind_of, to_host

# Of the models that the shapes are named after: parameters as their makers count them.
PARAMETERS = {
    "gpt2": 124_439_808,
    "llama-2-13b": 13_015_864_320,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-0.6b": 596_049_920,
}


def load(shape, dtype="float32", device="cpu", progress=None):
    files = open_model(resolve_model(f"random:{shape}"))
    return load_model(files, np.dtype(dtype), 64, progress, device)


def test_each_shape_has_the_parameters_of_its_model():
    counted = {}
    for shape in random_shapes():
        tensors = open_model(resolve_model(f"random:{shape}")).checkpoint.tensors
        counted[shape] = sum(info.num_elements for info in tensors.values())
    assert counted.pop("tiny") < 100_000
    assert counted == PARAMETERS


def test_a_shape_that_nobody_knows_is_refused_with_those_that_there_are():
    with pytest.raises(ModelNotFoundError, match="'llama-9'") as caught:
        resolve_model("random:llama-9")
    assert "random:llama-3-8b" in caught.value.remedy


@pytest.mark.parametrize("name", ["random:", "random:../bundled/storyteller", "random:."])
def test_a_shape_is_no_path(name):
    with pytest.raises(ModelNotFoundError):
        resolve_model(name)


def test_shapes_are_not_among_the_bundled_models():
    assert not set(bundled_models()) & set(random_shapes())
    with pytest.raises(ModelNotFoundError):
        resolve_model("llama-3-8b")


def test_weights_are_the_same_in_every_format_on_every_device(device):
    here, there = load("tiny"), load("tiny", "bfloat16", device)
    assert kind_of(there.lm_head) == device
    for name in ("input_norm", "qkv", "out", "gate_up", "down"):
        mine, others = (getattr(model.layers[1], name) for model in (here, there))
        np.testing.assert_array_equal(to_host(others).astype(np.float32), mine)
    np.testing.assert_array_equal(to_host(there.embed_tokens).astype(np.float32), here.lm_head)


def test_no_two_tensors_are_alike():
    first, second = load("tiny").layers
    assert not np.array_equal(first.qkv, second.qkv)
    assert not np.array_equal(first.gate_up[:64], first.qkv[:64])
    # Query and key: rows of one stack, but tensors of their own.
    assert not np.array_equal(first.qkv[:32], first.qkv[64:96])


def test_gpt2_gets_its_products_the_way_it_uses_them(monkeypatch, tmp_path):
    directory = tmp_path / "shapes" / "small"
    directory.mkdir(parents=True)
    config = (SHAPES_DIR / "gpt2" / "config.json").read_text()
    for name, value in (("768", "32"), ("12", "2"), ("50257", "64"), ("1024", "16")):
        config = config.replace(f": {name},", f": {value},")
    (directory / "config.json").write_text(config)
    monkeypatch.setattr("llm_numba.models.loading.SHAPES_DIR", tmp_path / "shapes")
    assert load_config(directory).hidden_size == 32
    model = load_model(open_model(directory), np.dtype(np.float32), 16)
    layer = model.layers[0]
    assert (layer.qkv.weight.shape, layer.down.weight.shape) == ((96, 32), (32, 128))
    # Of size 1/sqrt(K) to the nearest power of two, K being the columns.
    assert 2**-0.5 < layer.up.weight.std() * 32**0.5 < 2**0.5
    assert 2**-0.5 < layer.down.weight.std() * 128**0.5 < 2**0.5
    assert np.all(layer.norm_1.weight == 1)
    assert 0 < np.abs(layer.qkv.bias).max() < 0.1


def test_progress_counts_the_bytes_that_a_file_would_have():
    calls = []
    load("tiny", progress=lambda *call: calls.append(call))
    assert [name for name, _, _ in calls] == list(dict.fromkeys(name for name, _, _ in calls))
    total = sum(i.num_bytes for i in open_model(SHAPES_DIR / "tiny").checkpoint.tensors.values())
    assert calls[-1][1:] == (total, total)


def test_logits_are_of_size_1_and_depend_on_the_prompt():
    llm = LLM("random:tiny", device="cpu", max_model_len=64)
    logits = llm.logits([3, 1, 4, 1, 5, 9, 2, 6])
    assert np.isfinite(logits).all()
    assert np.all((logits.std(axis=-1) > 0.5) & (logits.std(axis=-1) < 2))
    other = llm.logits([3, 1, 4, 1, 5, 9, 7, 6])
    np.testing.assert_array_equal(logits[:6], other[:6])
    assert np.abs(logits[7] - other[7]).max() > 0.1


def test_it_speaks_token_ids():
    llm = LLM("random:tiny", device="cpu", max_model_len=64)
    greedy = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    first, again = (llm.generate([1, 2, 3], greedy)[0].outputs[0] for _ in range(2))
    assert first.token_ids == again.token_ids
    assert (len(first.token_ids), first.text) == (5, "")
    with pytest.raises(TokenizerError, match="random weights"):
        llm.generate("Once upon a time", greedy)
