"""``llm-numba shard``: what it writes, and what it refuses."""

import json

import pytest

from llm_numba import LLM


def test_shards_are_listed_and_any_command_reads_them(cli, tiny, tmp_path):
    out = tmp_path / "shards"
    result = cli.invoke("shard", tiny, "--tp", 2, "--pp", 2, "--out", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        [str(rank), str(rank // 2), str(rank % 2), f"model-rank-{rank:02}-of-04.safetensors"]
        for rank in range(4)
    ]
    facts = json.loads(cli.invoke("models", out, "--json").stdout)
    assert facts["problems"] == []
    asked = ("--prompt", "a", "--max-tokens", 3, "--temperature", 0)
    told, expected = (cli.invoke("generate", "--model", model, *asked) for model in (out, tiny))
    assert told.exit_code == expected.exit_code == 0, told.output
    assert told.stdout == expected.stdout


def test_shards_can_be_cut_again(cli, tiny, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.invoke("shard", tiny, "--tp", 4, "--out", first).exit_code == 0
    again = cli.invoke("shard", first, "--tp", 2, "--layout", "gather", "--out", second)
    assert again.exit_code == 0, again.output
    split = json.loads((second / "split.json").read_text())
    assert (split["tensor_parallel"], split["layout"]) == (2, "gather")
    assert (LLM(second).logits([1, 2]) == LLM(str(tiny)).logits([1, 2])).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tp", 3], ["4 query heads do not divide", "1, 2, 4"]),
        (["--tp", 8], ["8 tensor-parallel ranks"]),
        (["--pp", 3], ["2 layers", "3 pipeline stages"]),
        (["--tp", 2, "--layout", "rows"], ["'rows'", "megatron, gather"]),
    ],
)
def test_a_split_that_cannot_be_is_told_with_exit_code_2(cli, tiny, tmp_path, options, words):
    cli.refuses("shard", tiny, *options, "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()


def test_places_and_models_that_cannot_be_are_told(cli, tiny, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    cli.refuses("shard", tiny, "--tp", 2, "--out", tmp_path / "full", words=["exists already"])
    out = tmp_path / "out"
    cli.refuses("shard", "random:tiny", "--tp", 2, "--out", out, words=["random weights"])
    cli.refuses("shard", tmp_path / "none", "--tp", 2, "--out", out, words=["no model"])


def test_wrong_usage(cli, tiny, tmp_path):
    assert cli.invoke("shard", tiny).exit_code == 2
    assert cli.invoke("shard", tiny, "--tp", 0, "--out", tmp_path / "out").exit_code == 2
