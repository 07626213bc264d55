"""``llm-numba chat`` through a pipe: a message a line, an answer each."""

import re

from llm_numba import LLM

GREEDY = ("--temperature", 0, "--max-tokens", 6, "--ignore-eos")


def test_second_turn_takes_the_first_from_the_cache(cli, tiny):
    options = ("--stats", "--block-size", "4")
    result = cli.invoke("chat", "-m", tiny, *GREEDY, *options, stdin="hello\nand you?\n")
    assert result.exit_code == 0, result.output
    first, second = re.findall(r"prompt (\d+) tokens(?: \((\d+) from the cache\))?", result.stderr)
    # <s>, <user>, h e l l o, <end>, <assistant>: two full blocks, which are found again.
    assert first == ("9", "")
    assert int(second[1]) >= 8


def test_answers_are_those_of_the_python_api(cli, tiny):
    result = cli.invoke("chat", "-m", tiny, *GREEDY, stdin="hello\n\nand you?\n")
    llm = LLM(tiny.path)
    params = llm.default_sampling_params(temperature=0.0, max_tokens=6, ignore_eos=True)
    messages, expected = [], ""
    for message in ("hello", "and you?"):
        messages.append({"role": "user", "content": message})
        text = llm.chat(messages, params).outputs[0].text
        messages.append({"role": "assistant", "content": text})
        expected += text + "\n"
    assert result.stdout == expected


def test_reset_forgets_the_conversation_and_keeps_the_system_message(cli, tiny):
    once = cli.invoke("chat", "-m", tiny, *GREEDY, "--system", "be kind", stdin="hello\n")
    twice = cli.invoke(
        "chat", "-m", tiny, *GREEDY, "--system", "be kind", stdin="hello\n/reset\nhello\n"
    )
    bare = cli.invoke("chat", "-m", tiny, *GREEDY, stdin="hello\n")
    assert twice.stdout == 2 * once.stdout
    assert bare.stdout != once.stdout
    assert "starts over" in twice.stderr


def test_exit_leaves_before_the_input_ends(cli, tiny):
    result = cli.invoke("chat", "-m", tiny, *GREEDY, stdin="/exit\nhello\n")
    assert (result.exit_code, result.stdout) == (0, "")


def test_stats_before_the_first_answer(cli, tiny):
    result = cli.invoke("chat", "-m", tiny, stdin="/stats\n")
    assert "Nothing was answered yet." in result.stderr


def test_unknown_slash_command_is_no_message(cli, tiny):
    result = cli.invoke("chat", "-m", tiny, stdin="/rest\n")
    assert result.stdout == ""
    assert "There is no /rest." in result.stderr
