"""``llm-numba doctor --model``: the engine's arithmetic as a table, for a card that is not here."""

import json

import pytest

from llm_numba import LLM, runtime


def test_the_table_adds_up_for_a_stated_card(cli):
    result = cli.invoke("doctor", "--model", "random:llama-3-8b", "--gpu-memory", 80)
    assert result.exit_code == 0, result.output
    for words in ("weights", "14.96 GiB", "in bfloat16", "KV cache", "Of the GPU", "72.00 GiB"):
        assert words in result.stdout
    asked = ("doctor", "--model", "random:llama-3-8b", "--gpu-memory", 80, "--json")
    facts = json.loads(cli.invoke(*asked).stdout)
    parts = ("weights", "activations", "reserve", "kv_cache")
    assert sum(facts[f"{part}_bytes"] for part in parts) == facts["taken_bytes"]
    assert facts["total_bytes"] == 80 * 2**30
    assert facts["kv_cache_bytes"] == (facts["num_blocks"] + 1) * facts["block_bytes"]


def test_without_a_card_it_is_the_arithmetic_that_an_engine_here_goes_by(cli, tiny, monkeypatch):
    monkeypatch.setattr(runtime, "resolve_device", lambda device: "cpu")
    asked = ("--num-blocks", 33, "--block-size", 8, "--json")
    facts = json.loads(cli.invoke("doctor", "--model", tiny, *asked).stdout)
    plan = LLM(str(tiny), device="cpu", num_blocks=33, block_size=8).memory
    assert (facts["num_blocks"], facts["taken_bytes"]) == (33, plan.taken)
    assert (facts["device"], facts["dtype"], facts["reserve_bytes"]) == ("cpu", "float32", 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "random:llama-3-70b", "--gpu-memory", 80], ["131.4 GiB", "dtype of 16 bits"]),
        (["-m", "random:llama-3-8b", "--gpu-memory", 16], ["weights", "may take 14.4 GiB"]),
        (["-m", "random:llama-3-8b", "--gpu-memory", 18], ["max_model_len"]),
        (["-m", "random:gpt2", "--gpu-memory", 0], ["--gpu-memory=0.0", "GiB"]),
        (["-m", "random:gpt2", "--gpu-memory", "nan"], ["--gpu-memory=nan", "GiB"]),
        (
            ["-m", "random:gpt2", "--gpu-memory", 80, "--gpu-memory-utilization", 1.5],
            ["gpu_memory_utilization=1.5", "at most 1"],
        ),
        (["-m", "random:gpt2", "--gpu-memory", 80, "--num-blocks", 3], ["at least 64 blocks"]),
    ],
)
def test_what_does_not_fit_is_told_with_exit_code_2(cli, options, words):
    cli.refuses("doctor", *options, words=words)
