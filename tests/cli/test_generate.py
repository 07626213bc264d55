"""``llm-numba generate``: what goes to stdout, what to stderr, and in which order."""

import json
import re

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.cli.transcript import Transcript
from llm_numba.engine.request import Sequence

GREEDY = ("--temperature", 0, "--max-tokens", 12)
PROMPTS = ["Once upon a time", "Mia", "The [bold]red[/bold] ball"]


@pytest.fixture(scope="module")
def expected(tiny):
    """What the Python API answers to the prompts, one by one."""
    llm = LLM(tiny.path, device="cpu")
    params = SamplingParams(temperature=0.0, max_tokens=12)
    return [llm.generate(prompt, params)[0].outputs[0] for prompt in PROMPTS]


def test_stdout_carries_the_text_alone(cli, tiny, expected):
    result = cli.invoke("generate", PROMPTS[0], "-m", tiny, *GREEDY, "--stats")
    assert result.exit_code == 0
    assert result.stdout == expected[0].text + "\n"
    assert "prompt 17 tokens" in result.stderr
    assert "tokens/s" in result.stderr


@pytest.mark.parametrize("device", ["sim", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_writes_what_the_cpu_writes(cli, tiny, device):
    arguments = ("generate", PROMPTS[0], "-m", tiny, "--temperature", 0, "--max-tokens", 2)
    here = cli.invoke(*arguments, "--device", "cpu")
    there = cli.invoke(*arguments, "--device", device, "--dtype", "float32")
    assert there.exit_code == 0, there.output
    assert (there.stdout, there.stderr) == (here.stdout, "")


def test_verbose_says_once_why_slower_kernels_are_taken(cli, tiny):
    """In float32 nothing of a prompt can take tensor cores; there are dozens of products."""
    arguments = ("generate", PROMPTS[0], "-m", tiny, "--temperature", 0, "--max-tokens", 1)
    result = cli.invoke(*arguments, "--device", "sim", "--dtype", "float32", "--verbose")
    assert result.exit_code == 0, result.output
    for what in ("Products", "Attention"):
        assert result.stderr.count(f"{what} by ordinary units, not by tensor cores") == 1
    assert "not float32" in result.stderr


def test_without_stats_stderr_is_silent(cli, tiny):
    assert cli.invoke("generate", PROMPTS[0], "-m", tiny, *GREEDY).stderr == ""


@pytest.mark.parametrize("way", ["argument", "flag", "file", "stdin"])
def test_prompt_may_come_from_anywhere(cli, tiny, tmp_path, expected, way):
    (tmp_path / "prompt.txt").write_text(PROMPTS[0] + "\n")
    arguments = {
        "argument": [PROMPTS[0]],
        "flag": ["--prompt", PROMPTS[0]],
        "file": ["--file", tmp_path / "prompt.txt"],
        "stdin": [],
    }[way]
    stdin = PROMPTS[0] + "\n" if way == "stdin" else ""
    result = cli.invoke("generate", *arguments, "-m", tiny, *GREEDY, stdin=stdin)
    assert result.stdout == expected[0].text + "\n"


def test_token_ids_are_a_prompt_too(cli, tiny):
    llm = LLM(tiny.path, device="cpu")
    ids = llm.tokenizer.encode(PROMPTS[1])
    text = llm.generate([ids], SamplingParams(temperature=0.0, max_tokens=12))[0].outputs[0].text
    typed = ",".join(map(str, ids))
    result = cli.invoke("generate", "--prompt-tokens", typed, "-m", tiny, *GREEDY)
    assert result.stdout == text + "\n"


def test_a_model_without_a_tokenizer_writes_token_ids(cli):
    arguments = ("generate", "-m", "random:tiny", "--max-model-len", 64, *GREEDY, "--ignore-eos")
    result = cli.invoke(*arguments, "--prompt-tokens", "5 6 7", "--echo")
    llm = LLM("random:tiny", device="cpu", max_model_len=64)
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    answer = llm.generate([5, 6, 7], params)[0].outputs[0].token_ids
    assert [int(number) for number in result.stdout.split()] == [5, 6, 7, *answer]


def test_only_the_last_line_break_of_a_file_is_dropped(cli, tiny):
    result = cli.invoke("generate", "-m", tiny, *GREEDY, "--json", stdin=" a\n\n\n")
    assert json.loads(result.stdout)["prompt"] == " a\n\n"


def test_prompts_file_runs_as_one_batch_in_its_order(cli, tiny, tmp_path, expected):
    (tmp_path / "prompts.txt").write_text("\n\n".join(PROMPTS) + "\n")
    arguments = ("--prompts-file", tmp_path / "prompts.txt", "-m", tiny, *GREEDY, "--stats")
    result = cli.invoke("generate", *arguments)
    assert result.stdout == "\n".join(completion.text + "\n" for completion in expected)
    headings = [line for line in result.stderr.splitlines() if line.startswith("──")]
    assert headings == [f"── prompt {i} of 3" for i in (1, 2, 3)]
    assert "3 requests" in result.stderr
    assert "0 pre-emptions" in result.stderr


def test_the_engines_options_change_how_it_computes_and_nothing_of_what_it_writes(
    cli, tiny, expected
):
    options = ("--max-num-batched-tokens", 4, "--max-num-seqs", 2, "--no-prefix-caching")
    result = cli.invoke("generate", *PROMPTS[:2], "-m", tiny, *GREEDY, *options, "--stats")
    assert result.exit_code == 0, result.output
    for completion in expected[:2]:
        assert completion.text in result.stdout
    tokens_a_step = float(re.search(r"([\d.]+) tokens a step", result.stderr)[1])
    assert tokens_a_step <= 4


def test_an_engine_option_out_of_range_is_an_error(cli, tiny):
    result = cli.invoke("generate", "x", "-m", tiny, "--max-num-seqs", 0)
    assert result.exit_code == 2
    assert "max_num_seqs=0 is out of range" in result.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "JSON"])
def test_one_prompt_that_fails_leaves_the_others_their_text(
    cli, tiny, expected, options, monkeypatch: pytest.MonkeyPatch
):
    append = Sequence.append

    def failing(sequence, *args):
        if sequence.request.prompt == PROMPTS[0]:
            raise UnicodeError("half a character")
        append(sequence, *args)

    monkeypatch.setattr(Sequence, "append", failing)
    result = cli.invoke("generate", *PROMPTS[:2], "-m", tiny, *GREEDY, *options)
    assert result.exit_code == 2
    assert "half a character" in result.stderr
    assert expected[1].text in (
        json.loads(result.stdout.splitlines()[1])["outputs"][0]["text"]
        if options
        else result.stdout
    )


def test_echo_writes_prompts_untouched_by_markup(cli, tiny, expected):
    result = cli.invoke("generate", PROMPTS[2], "-m", tiny, *GREEDY, "--echo")
    assert result.stdout == PROMPTS[2] + expected[2].text + "\n"


def test_json_is_one_object_a_line_with_the_names_of_the_api(cli, tiny, expected):
    result = cli.invoke("generate", *PROMPTS, "-m", tiny, *GREEDY, "--json", "--logprobs", 2)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == PROMPTS
    for answer, completion in zip(answers, expected, strict=True):
        (output,) = answer["outputs"]
        assert output["text"] == completion.text
        assert output["token_ids"] == completion.token_ids
        assert output["finish_reason"] == completion.finish_reason
        assert len(output["logprobs"]) == len(completion.token_ids)
        # Greedy: the chosen token is the likeliest, so two tokens are two entries.
        assert all(len(step) == 2 for step in output["logprobs"])
        assert answer["metrics"]["num_generated_tokens"] == len(completion.token_ids)


def test_n_completions_differ_and_repeat_with_their_seed(cli, tiny):
    arguments = ("generate", "Mia", "-m", tiny, "-n", 3, "--seed", 5, "--max-tokens", 8, "--json")
    first, second = cli.invoke(*arguments), cli.invoke(*arguments)
    texts = [output["text"] for output in json.loads(first.stdout)["outputs"]]
    assert len(set(texts)) == 3
    assert texts == [output["text"] for output in json.loads(second.stdout)["outputs"]]


def test_model_defaults_hold_until_an_option_says_otherwise(cli, damaged):
    (damaged.path / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    arguments = ("generate", "Mia", "-m", damaged, "--max-tokens", 20, "--json")

    def token_ids(*more):
        return json.loads(cli.invoke(*arguments, *more).stdout)["outputs"][0]["token_ids"]

    greedy = token_ids()
    assert greedy == token_ids("--temperature", 0)
    assert greedy != token_ids("--temperature", 5, "--seed", 1)


def test_unset_max_tokens_fills_the_context(cli, tiny):
    arguments = ("-m", tiny, "--max-model-len", 40, "--ignore-eos", "--json")
    answer = json.loads(cli.invoke("generate", "0123456789", *arguments).stdout)
    assert answer["metrics"]["num_generated_tokens"] == 29
    assert answer["outputs"][0]["finish_reason"] == "length"


def test_stop_text_ends_the_answer_before_it(cli, tiny, expected):
    stop = next(c for c in expected[0].text[1:] if c.isprintable() and c != "\ufffd")
    result = cli.invoke("generate", PROMPTS[0], "-m", tiny, *GREEDY, "--stop", stop)
    assert result.stdout == expected[0].text.split(stop)[0] + "\n"


def test_transcript_writes_in_order_whatever_comes_first(capsys):
    transcript = Transcript(["a", "b"])
    transcript.add(1, 0, "second", finished=True)
    assert capsys.readouterr().out == ""
    transcript.add(0, 0, "fi", finished=False)
    assert capsys.readouterr().out == "fi"
    transcript.add(0, 0, "rst", finished=True)
    assert capsys.readouterr().out == "rst\n\nsecond\n"


def test_transcript_ends_a_line_only_once(capsys):
    transcript = Transcript(["a"])
    transcript.add(0, 0, "text\n", finished=True)
    transcript.end_line()
    assert capsys.readouterr().out == "text\n"


def test_piping_works_in_a_real_process(cli, tiny, expected):
    done = cli.run("generate", "-m", tiny, *GREEDY, stdin=PROMPTS[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, expected[0].text + "\n", "")


def test_terminal_without_a_character_shows_a_question_mark(cli, tiny):
    arguments = ("generate", "Mia é", "-m", tiny, *GREEDY, "--echo")
    done = cli.run(*arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Mia ?")


def test_byte_order_mark_is_no_part_of_a_prompt(cli, tiny, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfHello")
    result = cli.invoke("generate", "--file", tmp_path / "prompt.txt", "-m", tiny, "--json")
    assert json.loads(result.stdout)["prompt"] == "Hello"


def test_a_rank_says_that_it_waits_for_standard_input(cli, tiny):
    """Open MPI 5 does not pass on where it ends; the wait would never be explained."""
    first = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    arguments = ("generate", "-m", tiny, "--max-tokens", 1)
    waiting, alone = cli.run(*arguments, stdin="a", **first), cli.run(*arguments, stdin="a")
    assert "Reading the prompt from standard input" in waiting.stderr
    assert alone.stderr == ""
