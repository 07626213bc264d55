"""Commands on several ranks: one of them speaks, in the words of a program that runs alone."""

import json

import pytest

from llm_numba import LLM, SamplingParams
from llm_numba.parallel.paths import PATHS_OF_HOSTS

PROMPTS = ["Once upon a time", "Mia"]
COMMAND = ("-m", "llm_numba", "generate", *PROMPTS, "--temperature", "0", "--max-tokens", "8")


@pytest.fixture(scope="module")
def expected(tiny_dir):
    """What one rank answers."""
    llm = LLM(tiny_dir, device="cpu")
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=8))
    return [output.outputs[0] for output in outputs]


def test_four_ranks_write_what_one_writes_and_write_it_once(mpirun, tiny_dir, expected):
    ended = mpirun(4, *COMMAND, "-m", tiny_dir, "--tp", "2", "--pp", "2", "--json")
    assert ended.code == 0, ended.err
    found = [json.loads(line)["outputs"][0] for line in ended.out.splitlines()]
    assert [each["token_ids"] for each in found] == [each.token_ids for each in expected]
    assert [each["text"] for each in found] == [each.text for each in expected]
    assert ended.err == ""
    assert ended.orphans == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS_OF_HOSTS)
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (4, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("model", ["tiny", "storyteller"])
def test_every_split_writes_what_one_rank_writes(mpirun, tiny_checkpoint, tp, pp, model, path):
    if model == "tiny":
        model = tiny_checkpoint(num_hidden_layers=4)
    llm = LLM(model, device="cpu")
    params = llm.default_sampling_params(seed=3, temperature=0.9, max_tokens=20, n=2)
    alone = [sample.token_ids for sample in llm.generate("Once", params)[0].outputs]
    options = ("--n", 2, "--seed", 3, "--temperature", 0.9, "--max-tokens", 20, "--json")
    command = ("-m", "llm_numba", "generate", "Once", "-m", model, "--tp", tp, "--pp", pp)
    ended = mpirun(tp * pp, *command, *options, "--comm", path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["outputs"]
    assert [sample["token_ids"] for sample in found] == alone


@pytest.mark.slow
def test_an_evaluation_on_two_ranks_is_that_of_one(mpirun):
    command = ("-m", "llm_numba", "eval", "--stories", 20)
    alone, together = mpirun(1, *command), mpirun(2, *command, "--tp", 2)
    assert together.code == 0, together.err
    assert "accuracy" in together.out.lower()
    assert together.out == alone.out


@pytest.mark.slow
def test_a_chat_on_two_ranks_is_that_of_one(mpirun):
    lines = "Tell me a story\nGo on\n/exit\n"
    command = ("-m", "llm_numba", "chat", "--temperature", 0, "--max-tokens", 9)
    alone, together = (mpirun(ranks, *command, "--pp", ranks, stdin=lines) for ranks in (1, 2))
    assert together.code == 0, together.err
    assert together.out.strip()
    assert together.out == alone.out
    assert together.orphans == []


@pytest.mark.parametrize(
    ("ranks", "arguments", "words"),
    [
        # Found by the launcher's numbers, by the option parser, by rank 0, by all ranks.
        (2, ["--tp", "3"], "needs 3 ranks"),
        (2, ["--tp", "2", "--nonsense"], "No such option"),
        pytest.param(2, ["--tp", "2", "--top-p", "7"], "top_p must be", marks=pytest.mark.slow),
        (3, ["--tp", "3"], "query heads do not divide"),
    ],
)
def test_bad_input_is_told_once_with_exit_code_2(mpirun, tiny_dir, ranks, arguments, words):
    ended = mpirun(ranks, *COMMAND, "-m", tiny_dir, *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count(words) == 1, ended.err
    assert ended.orphans == []
