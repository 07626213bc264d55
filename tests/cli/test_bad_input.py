"""Every mistake a user can make: one sentence of cause, one of remedy, exit code 2."""

import json
import os
import pickle
import resource
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

SHORT = ("--max-tokens", 2)
WEIGHT = "model.layers.1.mlp.up_proj.weight"


def test_directory_that_is_not_there(cli, tmp_path):
    cli.refuses("generate", "a", "-m", tmp_path / "nowhere", words=["nowhere", "storyteller"])


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/x", "a/b/c"])
def test_name_that_can_be_no_model(cli, name):
    cli.refuses("generate", "a", "-m", name, words=["There is no model", "storyteller"])


def test_model_that_is_a_file(cli, damaged):
    cli.refuses("generate", "a", "-m", damaged.path / "config.json", words=["config.json", "file"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_directory_that_may_not_be_read(cli, damaged):
    damaged.path.chmod(0)
    try:
        cli.refuses("generate", "a", "-m", damaged, words=[str(damaged)])
    finally:
        damaged.path.chmod(0o700)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json",
             "chat_template.jinja", "model.safetensors"]
)  # fmt: skip
def test_file_that_cannot_be_read(cli, damaged, name):
    # A directory in its place is unreadable for root too.
    (damaged.path / name).unlink(missing_ok=True)
    (damaged.path / name).mkdir()
    cli.refuses("generate", "a", "-m", damaged, *SHORT, words=[name])


def test_no_config(cli, damaged):
    (damaged.path / "config.json").unlink()
    cli.refuses("generate", "a", "-m", damaged, words=["config.json"])


@pytest.mark.parametrize("text", ["{", "[]", "", '{"architectures": '])
def test_config_that_is_no_json_object(cli, damaged, text):
    (damaged.path / "config.json").write_text(text)
    cli.refuses("generate", "a", "-m", damaged, words=["config.json", "JSON"])


@pytest.mark.parametrize("architectures", [["BertModel"], [], None, "BertModel", [{}], 3])
def test_unsupported_architecture_lists_the_supported(cli, damaged, architectures):
    damaged.edit_json("config.json", architectures=architectures)
    supported = ["Llama", "Mistral", "Qwen2", "Qwen3", "GPT2"]
    cli.refuses("generate", "a", "-m", damaged, words=["architecture", *supported])


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", None), ("hidden_size", "32"), ("num_hidden_layers", -1),
     ("num_attention_heads", 0), ("num_key_value_heads", 3), ("vocab_size", 2.5),
     ("eos_token_id", "end"), ("hidden_act", "relu"), ("rope_scaling", {"rope_type": "mrope"})],
)  # fmt: skip
def test_config_value_that_makes_no_sense_is_named(cli, damaged, key, value):
    damaged.edit_json("config.json", **{key: value})
    word = {"rope_scaling": "mrope", "num_key_value_heads": "KV heads", "hidden_act": "relu"}.get(
        key, key
    )
    cli.refuses("generate", "a", "-m", damaged, words=["config.json", word])


def test_missing_tensor_is_named(cli, damaged):
    damaged.edit_tensors(lambda tensors: tensors.pop(WEIGHT))
    cli.refuses("generate", "a", "-m", damaged, words=["missing", WEIGHT])


def test_extra_tensor_is_named(cli, damaged):
    damaged.edit_tensors(lambda tensors: tensors.update({"model.surplus": np.zeros(2)}))
    cli.refuses("generate", "a", "-m", damaged, words=["model.surplus"])


def test_misshapen_tensor_is_named_with_both_shapes(cli, damaged):
    damaged.edit_tensors(lambda tensors: tensors.update({WEIGHT: np.zeros((3, 5))}))
    cli.refuses("generate", "a", "-m", damaged, words=[WEIGHT, "[3, 5]", "[48, 32]"])


def test_tensor_of_integers_is_named(cli, damaged):
    damaged.edit_tensors(lambda tensors: tensors.update({WEIGHT: np.zeros((48, 32), np.int8)}))
    cli.refuses("generate", "a", "-m", damaged, words=[WEIGHT, "I8", "BF16"])


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_tell_both_byte_counts(cli, damaged, kept):
    path = damaged.path / damaged.weights
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    words = [damaged.weights, f"{len(data[:kept])}"] + ([f"{len(data)}"] if kept == -1 else [])
    cli.refuses("generate", "a", "-m", damaged, words=words)


@pytest.mark.parametrize("offset", [0, 8, 9, 30])
def test_corrupt_header(cli, damaged, offset):
    path = damaged.path / damaged.weights
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    cli.refuses("generate", "a", "-m", damaged, words=[damaged.weights, "cannot be read"])


def test_no_weights(cli, damaged):
    (damaged.path / damaged.weights).unlink()
    cli.refuses("generate", "a", "-m", damaged, words=[damaged.weights])


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickle_is_never_loaded(cli, damaged, tmp_path, name):
    (damaged.path / damaged.weights).unlink()
    (damaged.path / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    cli.refuses("generate", "a", "-m", damaged, words=[name])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("escape", ["../outside.safetensors", "/{}/outside.safetensors", ".."])
def test_index_cannot_name_a_file_outside_the_directory(cli, damaged, tmp_path, escape):
    name = escape.format(tmp_path)
    os.rename(damaged.path / damaged.weights, tmp_path / "outside.safetensors")
    weight_map = dict.fromkeys(load_file(tmp_path / "outside.safetensors"), name)
    index = damaged.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    cli.refuses("generate", "a", "-m", damaged, words=[index.name, repr(name)])


def test_index_that_names_a_missing_shard(cli, damaged):
    os.remove(damaged.path / damaged.weights)
    index = damaged.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {WEIGHT: "model-00001-of-00002.safetensors"}}))
    words = [index.name, "model-00001-of-00002.safetensors", "missing"]
    cli.refuses("generate", "a", "-m", damaged, words=words)


@pytest.mark.parametrize("weight_map", [None, [], {}, {WEIGHT: 3}])
def test_index_without_a_map(cli, damaged, weight_map):
    os.remove(damaged.path / damaged.weights)
    index = damaged.path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    cli.refuses("generate", "a", "-m", damaged, words=[index.name])


def test_no_tokenizer(cli, damaged):
    (damaged.path / "tokenizer.json").unlink()
    cli.refuses("generate", "a", "-m", damaged, words=["tokenizer.json"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": "9.9"}', '{"model": {"type": "BPE", "vocab": 3}}']
)
def test_malformed_tokenizer(cli, damaged, text):
    (damaged.path / "tokenizer.json").write_text(text)
    cli.refuses("generate", "a", "-m", damaged, words=["tokenizer.json"])


def test_tokenizer_with_more_tokens_than_the_model(cli, damaged):
    damaged.edit_json("config.json", vocab_size=200)

    def cut(tensors):
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name][:200].copy()

    damaged.edit_tensors(cut)
    cli.refuses("generate", "a", "-m", damaged, *SHORT, words=["vocabulary", "200"])


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages | nothing }}", "{% if x %}"])
def test_chat_template_that_is_no_jinja(cli, damaged, template):
    (damaged.path / "chat_template.jinja").write_text(template)
    cli.refuses("chat", "-m", damaged, stdin="hi\n", words=["chat template", "chat_template.jinja"])


def test_chat_template_that_is_no_text(cli, damaged):
    (damaged.path / "chat_template.jinja").write_bytes(b"\xff")
    cli.refuses("chat", "-m", damaged, stdin="hi\n", words=["chat_template.jinja"])


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}",
     "{{ cycler.__init__.__globals__.os.system('touch sprung') }}",
     "{{ messages.append(1) }}",
     "{{ (messages|attr('__class__')).__base__.__subclasses__() }}",
     "{% include '/etc/passwd' %}",
     "{{ raise_exception('no such role') }}"],
)  # fmt: skip
def test_chat_template_cannot_leave_its_sandbox(cli, damaged, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (damaged.path / "chat_template.jinja").write_text(template)
    cli.refuses("chat", "-m", damaged, stdin="hi\n", words=["chat template"])
    assert not (tmp_path / "sprung").exists()


def test_chat_without_a_template(cli, damaged):
    damaged.edit_json("tokenizer_config.json", chat_template=None)
    cli.refuses("chat", "-m", damaged, stdin="hi\n", words=["chat template", "generate"])


def test_prompt_longer_than_the_context(cli, tiny):
    cli.refuses("generate", "a" * 600, "-m", tiny, words=["601", "96"])


def test_prompt_longer_than_a_chosen_context(cli, tiny):
    cli.refuses("generate", "a" * 60, "-m", tiny, "--max-model-len", 32, words=["61", "32"])


def test_empty_prompt(cli, tiny):
    cli.refuses("generate", "", "-m", tiny, words=["empty"])


def test_empty_standard_input(cli, tiny):
    cli.refuses("generate", "-m", tiny, stdin="", words=["empty"])


def test_prompt_that_is_no_text(cli, tiny):
    cli.refuses("generate", "-m", tiny, stdin=b"ab\xff", words=["UTF-8", "byte 2"])


def test_prompt_tokens_that_are_no_numbers(cli, tiny):
    cli.refuses("generate", "--prompt-tokens", "1,x", "-m", tiny, words=["'1,x'", "1,2,3"])


def test_text_for_a_model_without_a_tokenizer(cli):
    words = ["random:tiny", "--prompt-tokens"]
    cli.refuses("generate", "Once", "-m", "random:tiny", "--max-model-len", 64, words=words)


def test_shape_that_nobody_knows(cli):
    cli.refuses("generate", "Once", "-m", "random:llama-9", words=["llama-9", "random:gpt2"])


def test_prompt_file_that_is_not_there(cli, tiny, tmp_path):
    cli.refuses("generate", "--file", tmp_path / "gone.txt", "-m", tiny, words=["gone.txt"])


def test_prompts_file_without_a_prompt(cli, tiny, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n\n")
    words = ["prompts.txt", "no prompt"]
    cli.refuses("generate", "--prompts-file", tmp_path / "prompts.txt", "-m", tiny, words=words)


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [("--temperature", -0.1, ["0"]), ("--temperature", "nan", ["0"]),
     ("--top-p", 0, ["0", "1"]), ("--top-p", 1.5, ["0", "1"]), ("--top-k", -2, ["-1"]),
     ("--min-p", -0.5, ["0", "1"]), ("--min-p", 2, ["0", "1"]),
     ("--repetition-penalty", 0, ["0"]), ("--presence-penalty", 3, ["-2", "2"]),
     ("--frequency-penalty", -3, ["-2", "2"]), ("--max-tokens", 0, ["1"]), ("--n", 0, ["1"]),
     ("--seed", -1, ["0"]), ("--logprobs", -1, ["0"]), ("--stop", "", ["empty"]),
     ("--stop-token-id", -5, ["0"])],
)  # fmt: skip
def test_sampling_value_out_of_range_names_field_and_range(cli, tiny, option, value, bounds):
    field = option.removeprefix("--").replace("-", "_")
    cli.refuses("generate", "a", "-m", tiny, f"{option}={value}", words=[field, *bounds])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--block-size", 0), ("--num-blocks", 0), ("--max-model-len", 0), ("--max-model-len", 9999),
     ("--block-size", -16)],
)  # fmt: skip
def test_memory_option_out_of_range(cli, tiny, option, value):
    field = option.removeprefix("--").replace("-", "_")
    cli.refuses("generate", "a", "-m", tiny, f"{option}={value}", words=[field, str(value)])


def test_cache_too_small_for_the_prompt(cli, tiny):
    arguments = ("-m", tiny, "--num-blocks", 2, "--max-tokens", 10)
    cli.refuses("generate", "a" * 100, *arguments, words=["num_blocks", "blocks of 16 tokens"])


def test_no_such_device(cli, tiny):
    cli.refuses("generate", "a", "-m", tiny, "--device", "tpu", words=["tpu", "cpu", "cuda"])


def test_no_such_dtype(cli, tiny):
    cli.refuses("generate", "a", "-m", tiny, "--dtype", "int3", words=["int3", "float32"])


def test_cuda_without_a_gpu(cli, tiny):
    cli.refuses("generate", "a", "-m", tiny, "--device", "cuda", words=["cuda", "doctor"])


@pytest.mark.parametrize("command", [("ranks",), ("pipeline", "--device", "cuda")])
def test_a_benchmark_of_ranks_without_a_gpu(cli, command):
    cli.refuses("bench", *command, words=["cuda", "doctor"])


def test_a_benchmark_names_a_missing_model_before_it_measures(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_numba.bench.cpu.measure", lambda settings: 1 / 0)
    cli.refuses("bench", "cpu", "-m", "nowhere", "--out", tmp_path / "cpu.json", words=["nowhere"])


def test_an_empty_name_is_no_list_of_the_bundled_models(cli):
    assert "name is empty" in cli.invoke("models", "").stderr


def test_a_second_error_of_shape_does_not_hide_the_first(cli, damaged):
    def change(tensors):
        del tensors[WEIGHT]
        tensors["model.surplus"] = np.zeros(2)

    damaged.edit_tensors(change)
    cli.refuses("generate", "a", "-m", damaged, words=[WEIGHT, "model.surplus"])


def test_weights_of_two_files_where_one_is_damaged(cli, damaged):
    tensors = load_file(damaged.path / damaged.weights)
    os.remove(damaged.path / damaged.weights)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, damaged.path / file)
    index = {name: file for file, part in shards.items() for name in part}
    (damaged.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert cli.invoke("generate", "a", "-m", damaged, *SHORT).exit_code == 0
    data = (damaged.path / "b.safetensors").read_bytes()
    (damaged.path / "b.safetensors").write_bytes(data[:-4])
    words = ["b.safetensors", str(len(data)), str(len(data) - 4)]
    cli.refuses("generate", "a", "-m", damaged, words=words)


@pytest.mark.parametrize(
    "arguments",
    [("generate", "a", "-m", "nowhere"), ("chat", "-m", "nowhere"), ("models", "nowhere"),
     ("generate", "--temperature=-1", "a"), ("generate", "--device", "cuda", "a"),
     ("generate", "a", "--no-such-flag"), ("no-such-command",), ("eval", "-m", "nowhere")],
)  # fmt: skip
def test_real_process_ends_with_2_and_no_traceback(cli, arguments):
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_more_blocks_than_memory_names_how_many_fit(cli, tiny):
    cli.refuses(
        "generate", "a", "-m", tiny, "--num-blocks", 10**12, words=["num_blocks", "at most"]
    )


def test_logprobs_without_json_have_nowhere_to_go(cli, tiny):
    cli.refuses("generate", "a", "-m", tiny, "--logprobs", 2, words=["--logprobs", "--json"])


def test_stop_token_outside_the_vocabulary(cli, tiny):
    words = ["stop_token_ids", "272"]
    cli.refuses("generate", "a", "-m", tiny, "--stop-token-id", 272, words=words)


def test_comparison_with_a_file_of_something_else(cli, tiny, tmp_path):
    (tmp_path / "list.json").write_text("[]")
    words = ["list.json", "not the outcome of an evaluation"]
    cli.refuses("eval", "-m", tiny, "--compare", tmp_path / "list.json", words=words)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("generate", "a", "--echo", *SHORT), ("--help",)])
def test_full_disk_is_told_without_a_traceback(cli, tiny, arguments):
    model = ("-m", tiny) if arguments[0] == "generate" else ()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            cli.argv(*arguments, *model),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: The output cannot be written: No space left on device.",
        "  Fix: Make room, or write to another place.",
    ]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_takes_a_part_is_full_too(cli, tiny, tmp_path, unbuffered):
    with (tmp_path / "model.json").open("w") as file:
        done = subprocess.run(
            cli.argv("models", tiny, "--json"),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment | {"PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
            timeout=60,
        )
    assert (tmp_path / "model.json").stat().st_size == 100
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The output cannot be written: File too large.")


def test_closed_stdout_is_no_error(cli, tiny):
    command = shlex.join(cli.argv("generate", "a", "-m", tiny, *SHORT))
    done = subprocess.run(
        ["sh", "-c", f"{command} >&-"],
        capture_output=True,
        text=True,
        env=cli.environment,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_closed_stdin_is_an_empty_one(cli, tiny, command):
    """So a daemon starts its programs. A prompt is missing then; a conversation is over."""
    words = cli.argv(command, "-m", tiny)
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} <&-"],
        capture_output=True,
        text=True,
        env=cli.environment,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if command == "generate" else 0)


@pytest.mark.parametrize("n", [1000, 10**12])
def test_more_completions_than_run_at_a_time_are_refused_before_a_heading(cli, tiny, n):
    cli.refuses("generate", "a", "-m", tiny, "-n", n, words=[f"n={n}", "64 sequences"])
