"""``llm-numba profile``: tables, files, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from llm_numba.cli.app import app
from llm_numba.engine.runner import ModelRunner


def profile(*arguments):
    return CliRunner().invoke(app, ["profile", "-m", "random:tiny", "--device", "cpu", *arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What one run wrote, and printed."""
    folder = tmp_path_factory.mktemp("profile")
    paths = {name: folder / name for name in ("out.json", "trace.json", "step.svg")}
    options = zip(("--out", "--trace", "--svg"), map(str, paths.values()), strict=True)
    batches = ("--batch", "2", "--batch", "3")
    result = profile(*batches, "--context", "40", "--prefill", "24", *sum(options, ()))
    assert result.exit_code == 0, result.output
    return {name: path.read_text() for name, path in paths.items()} | {"stdout": result.stdout}


def test_it_prints_each_operation_of_both_phases_and_the_parts_of_the_step(files):
    decode, prefill = files["stdout"].split("prefill:")
    for text in (decode, prefill):
        assert "linear gate_up" in text
        assert "paged_attention" in text
        assert "rest of the kernels" in text
    assert "2 x 40 tokens" in decode
    assert "3 x 40 tokens" in decode
    assert "host" in decode
    assert "host" not in prefill  # the engine's own prefill is not timed


def test_the_record_says_what_was_run_and_where(files):
    record = json.loads(files["out.json"])
    assert record["benchmark"] == "profile"
    assert record["settings"]["model"] == "random:tiny"
    assert record["settings"]["bytes_per_second"] > 0
    assert record["environment"]["device"]["name"]
    names = [each["name"] for each in record["results"]]
    assert names == [
        "decode/batch=2/context=40", "decode/batch=3/context=40", "prefill/batch=1/context=24",
    ]  # fmt: skip
    decode = record["results"][0]
    assert sum(decode["parts"].values()) == pytest.approx(decode["engine_seconds"])


def test_the_trace_has_a_process_a_phase_and_no_time_runs_backwards(files):
    events = json.loads(files["trace.json"])["traceEvents"]
    spans = [each for each in events if each["ph"] == "X"]
    assert {each["pid"] for each in spans} == {0, 1, 2}
    assert all(each["ts"] >= 0 and each["dur"] >= 0 for each in spans)


def test_the_picture_is_an_svg(files):
    assert files["step.svg"].startswith("<svg ")


def test_a_prefill_of_no_tokens_is_left_out():
    result = profile("--context", "20", "--prefill", "0")
    assert result.exit_code == 0, result.output
    assert "prefill" not in result.stdout


def test_all_sequences_of_a_large_batch_decode_together(monkeypatch):
    sizes, submit = set(), ModelRunner.submit

    def noting(runner, step):
        sizes.add(step.num_tokens)
        return submit(runner, step)

    monkeypatch.setattr(ModelRunner, "submit", noting)
    result = profile("--batch", "70", "--context", "8", "--prefill", "0")
    assert result.exit_code == 0, result.output
    assert 70 in sizes
    assert sizes.isdisjoint({64, 6})


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [(["--device", "cuda"], "device='cuda' cannot be used"),
     (["--device", "sim"], "it has no time"),
     (["--context", "600"], "the model's context is shorter"),
     (["--batch", "20", "--num-blocks", "40"], "it does not fit into the KV cache"),
     (["--prefill", "513"], "is more than the 512 tokens"),
     (["--out", "/"], "cannot be written")],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(arguments, cause):
    result = profile(*arguments)
    assert result.exit_code == 2
    assert cause in result.stderr
    assert "Fix:" in result.stderr
