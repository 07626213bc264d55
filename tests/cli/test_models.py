"""``llm-numba models``: the figures are those of the files."""

import json
import struct

import numpy as np
from safetensors.numpy import load_file

from llm_numba.models import bundled_models, resolve_model


def data_bytes(path):
    """Return the bytes of a safetensors file behind its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    return path.stat().st_size - 8 - header


def inspect(cli, *arguments):
    result = cli.invoke("models", *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_bytes_are_those_of_the_file(cli, tiny):
    code, found = inspect(cli, tiny)
    assert code == 0
    assert found["loads"]
    assert found["total"]["bytes"] == data_bytes(tiny.path / tiny.weights)
    assert sum(w["bytes"] for w in found["weights"].values()) == found["total"]["bytes"]
    tensors = load_file(tiny.path / tiny.weights)
    assert found["total"]["tensors"] == len(tensors)
    assert found["total"]["parameters"] == sum(tensor.size for tensor in tensors.values())


def test_roles_are_told_apart(cli, tiny):
    _, found = inspect(cli, tiny)
    parameters = {role: w["parameters"] for role, w in found["weights"].items()}
    assert parameters == {
        "embedding": 272 * 32,
        "attention": 2 * (2 * 32 * 32 + 2 * 16 * 32),
        "MLP": 2 * 3 * 48 * 32,
        "norms": 5 * 32,
    }


def test_untied_head_is_a_role_of_its_own(cli, tiny_checkpoint):
    _, found = inspect(cli, tiny_checkpoint(tie_word_embeddings=False))
    assert found["weights"]["LM head"]["parameters"] == 272 * 32


def test_kv_bytes_are_two_tensors_of_every_layer(cli, tiny):
    _, found = inspect(cli, tiny)
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4


def test_storage_formats_are_told_apart(cli, damaged):
    def widen(tensors):
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name].astype(np.float32)

    damaged.edit_tensors(widen)
    _, found = inspect(cli, damaged)
    assert found["storage_bytes"]["F32"] == 4 * 272 * 32
    assert sum(found["storage_bytes"].values()) == data_bytes(damaged.path / damaged.weights)
    assert found["float32_bytes"] == 4 * found["total"]["parameters"]


def test_what_keeps_a_model_from_loading_is_told(cli, damaged):
    damaged.edit_tensors(lambda tensors: tensors.update({"model.surplus": np.zeros(2)}))
    (damaged.path / "tokenizer.json").write_text("{")
    code, found = inspect(cli, damaged)
    assert code == 2
    assert not found["loads"]
    causes = " ".join(problem["cause"] for problem in found["problems"])
    assert "model.surplus" in causes
    assert "tokenizer.json" in causes
    assert found["weights"]["other"]["parameters"] == 2


def test_model_without_a_tokenizer_loads_for_token_ids(cli, damaged):
    (damaged.path / "tokenizer.json").unlink()
    code, found = inspect(cli, damaged)
    assert code == 0
    assert found["loads"]
    assert not found["has_tokenizer"]
    assert "prompts of token ids" in cli.invoke("models", damaged).stdout


def test_weights_are_described_without_a_usable_config(cli, damaged):
    damaged.edit_json("config.json", architectures=["BertModel"])
    result = cli.invoke("models", damaged)
    assert result.exit_code == 2
    assert "embedding" in result.stdout
    assert "BertModel" in result.stderr


def test_tables_tell_the_same(cli, tiny):
    result = cli.invoke("models", tiny)
    assert result.exit_code == 0
    for word in (
        "LlamaForCausalLM",
        "24,224",
        "48,448",
        "256 B a token",
        "96 tokens",
        "the embedding",
    ):
        assert word in result.stdout
    assert result.stderr == ""


def test_every_bundled_model_is_listed_and_loads(cli):
    code, found = inspect(cli)
    assert code == 0
    assert [model["name"] for model in found] == bundled_models() == ["storyteller"]
    for model in found:
        assert model["loads"]
        weights = resolve_model(model["name"]) / "model.safetensors"
        assert model["total"]["bytes"] == data_bytes(weights)
        assert model["name"] in cli.invoke("models").stdout


def test_bundled_model_by_name(cli):
    code, found = inspect(cli, "storyteller")
    assert code == 0
    assert found["config"]["num_heads"] == 8
    assert found["config"]["num_kv_heads"] == 4
    assert found["total"]["bytes"] <= 10_000_000
