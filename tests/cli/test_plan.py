"""``llm-numba plan``: many GPUs on paper."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SEVENTY = ("plan", "--model", "llama-3-70b", "--tp", 8, "--pp", 4)


def test_a_plan_shows_memory_time_and_what_is_assumed(cli):
    result = cli.invoke(*SEVENTY, "--batch", 32, "--context", 4096)
    assert result.exit_code == 0, result.output
    words = ("32 GPUs", "KV cache", "interleaved", "drained", "Assumed, not measured", "nvlink-4")
    for word in words:
        assert word in result.stdout


def test_json_says_the_same_in_numbers(cli):
    result = cli.invoke(*SEVENTY, "--batch", 32, "--context", 4096, "--json")
    facts = json.loads(result.stdout)
    assert (facts["gpus"], facts["gpu"], facts["dtype"]) == (32, "h100", "bfloat16")
    stages = facts["stages"]
    assert sum(each["num_layers"] for each in stages) == 80
    parts = ("weights", "kv_cache", "activations", "buffers", "reserve")
    for each in stages:
        assert sum(each[f"{part}_bytes"] for part in parts) == each["taken_bytes"]
        assert each["taken_bytes"] <= each["limit_bytes"]
    rounds = facts["interleaved"]
    assert rounds["tokens_per_second"] == pytest.approx(32e3 / rounds["ms"])
    stage = sum(rounds["slowest_stage_us"].values()) + rounds["message_us"]
    assert rounds["ms"] == pytest.approx(1e-3 * stage * max(4, rounds["micro_batches"]))
    assert facts["kernel_records"][0]["file"].startswith("kernels_")


def test_one_gpu_assumes_nothing_and_has_one_kind_of_round(cli):
    result = cli.invoke("plan", "--model", "random:llama-3-8b")
    assert result.exit_code == 0, result.output
    assert "one stage" in result.stdout
    assert "1 sequence of" in result.stdout
    assert "Assumed" not in result.stdout


def test_a_model_with_a_short_context_is_planned_with_all_of_it(cli):
    facts = json.loads(cli.invoke("plan", "-m", "gpt2", "--json").stdout)
    assert (facts["context"], facts["prompt"]) == (1024, 512)


def test_a_directory_is_a_model_too(cli, tiny):
    facts = json.loads(cli.invoke("plan", "-m", tiny, "--context", 16, "--json").stdout)
    assert facts["context"] == 16
    assert facts["dtype"] == "bfloat16"  # its weights are float32: times are of 16 bits
    half = cli.invoke("plan", "-m", tiny, "--context", 16, "--dtype", "float16", "--json")
    assert json.loads(half.stdout)["dtype"] == "float16"


def test_an_option_outdoes_the_preset(cli):
    def batch(*options):
        return json.loads(cli.invoke("plan", "--preset", "13b-batch", *options, "--json").stdout)

    assert (batch()["tp"], batch()["batch"], batch()["gpu"]) == (4, 256, "rtx-4090")
    assert batch("--batch", 7, "--gpu", "l4")["batch"] == 7
    assert batch("--batch", 7, "--gpu", "l4")["gpu"] == "l4"


def test_measured_links_are_taken_from_a_record(cli, tmp_path):
    results = [
        {"shape": {"operation": each, "ranks": 2, "bytes": 8192}, "unit": "µs", "median": 1000.0}
        for each in ("all_reduce", "all_gather")
    ]
    path = tmp_path / "comm_h100.json"
    path.write_text(json.dumps({"benchmark": "comm", "results": results}))
    asked = ("plan", "-m", "llama-3-8b", "--tp", 2, "--link-times", path)
    assert "tensor ranks: comm_h100.json" in cli.invoke(*asked).stdout
    facts = json.loads(cli.invoke(*asked, "--json").stdout)
    assert facts["tensor_link"]["measured"]
    assert facts["drained"]["slowest_stage_us"]["exchanges"] > 65_000
    assert facts["assumptions"] == []


def test_a_plan_is_held_against_records(cli):
    paths = sorted(RESULTS.glob("engine_*.json"))
    checks = [word for path in paths for word in ("--check", path)]
    result = cli.invoke("plan", *checks)
    assert result.exit_code == 0, result.output
    assert "decode/batch=1/context=512" in result.stdout
    found = json.loads(cli.invoke("plan", *checks, "--json").stdout)
    assert all({"measured", "planned", "off", "reason"} <= each.keys() for each in found)


def test_a_sweep_is_a_table_and_a_picture(cli, tmp_path):
    svg = tmp_path / "sweep.svg"
    asked = ("plan", "-m", "llama-3.2-1b", "--context", 256, "--sweep", "--svg", svg)
    result = cli.invoke(*asked)
    assert result.exit_code == 0, result.output
    assert "Tokens/s of  a user" in result.stdout
    assert "nvlink-4" in result.stdout
    drawing = ElementTree.parse(svg).getroot()
    assert drawing.tag.endswith("svg")
    words = "".join(drawing.itertext())
    assert "tokens/s of a user" in words
    assert "llama-3.2-1b on NVIDIA H100" in words
    sizes = {each["gpus"] for each in json.loads(cli.invoke(*asked, "--json").stdout)["plans"]}
    assert {1, 8, 512} <= sizes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tp", 7], ["query heads", "1, 2, 4, 8"]),
        (["--tp", 8, "--pp", 81], ["81", "1 to 80"]),
        (["--tp", 0], ["tp=0"]),
        ([], ["stage 0", "weights 131.4 GiB", "Raise tp or pp"]),
        (["--tp", 8, "--batch", 2000, "--context", 8192], ["Lower the batch to at most"]),
        (["--gpu", "tpu"], ["'tpu'", "rtx-4090"]),
        (["--inside", "rope", "--tp", 8], ["'rope'", "nvlink-4"]),
        (["--preset", "moon"], ["'moon'", "70b-tp8-pp2"]),
        (["--dtype", "float32"], ["float32", "float16"]),
        (["--model", "nothing"], ["nothing"]),
        (["--tp", 8, "--svg", "x.svg"], ["--sweep"]),
        (["--tp", 8, "--gpu-memory", 0], ["gpu_memory_gb=0", "above 0"]),
        (["--link-times", "/nowhere.json"], ["/nowhere.json"]),
        (["--check", "/nowhere.json"], ["/nowhere.json"]),
        (["--check", RESULTS / "storyteller_recall_cpu.json"], ["no record"]),
        (["--model", "llama-3.2-1b", "--sweep", "--gpu-memory", 0.5], ["no split fits"]),
    ],
)
def test_mistakes_are_told_with_cause_and_remedy(cli, options, words):
    model = [] if "--model" in options else ["--model", "llama-3-70b"]
    cli.refuses("plan", *model, *options, words=words)
