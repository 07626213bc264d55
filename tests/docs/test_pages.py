"""What the pages list is what the code has."""

import inspect
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

from typer.main import get_command

from llm_numba import LLM, SamplingParams
from llm_numba.cli.app import app
from llm_numba.cli.options import EngineOptions
from llm_numba.kernels.ladder import all_ladders
from llm_numba.kvcache.sizing import GPU_MEMORY_UTILIZATION
from llm_numba.models import FAMILIES
from llm_numba.runtime import cubins, staging
from llm_numba.simulator import SimulationError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def test_the_models_page_names_every_family():
    assert code_words(page("models.md")) >= FAMILIES.keys()


def test_the_models_page_names_every_key_that_is_read():
    read = set()
    for module in ("families", "rope_fields", "generation_config"):
        source = (ROOT / "llm_numba" / "models" / f"{module}.py").read_text()
        # Keys are strings that stand alone in a call: fields.get("head_dim", ...).
        read |= set(re.findall(r'\.(?:get|size)\(\s*"(\w+)"', source))
        read |= set(re.findall(r'token_id_list\(fields, "(\w+)"\)', source))
        read |= set(re.findall(r'^    "(\w+)": (?:float|int),$', source, re.MULTILINE))
    section = page("models.md").partition("## What is read")[2].partition("## What is refused")
    named = code_words(section[0] + section[2])
    assert "num_key_value_heads" in read
    assert read <= named


def test_the_next_token_page_names_every_parameter_that_shapes_the_choice():
    not_about_the_choice = {
        "n", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "logprobs", "priority",
    }  # fmt: skip
    shaping = {field.name for field in fields(SamplingParams)} - not_about_the_choice
    table = page("walkthrough/next-token.md").partition("```")[0]
    assert shaping <= {word.partition("=")[0] for word in code_words(table)}


def test_getting_started_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() <= code_words(page("getting-started.md"))


def test_getting_started_names_every_setting_of_the_engine():
    what_runs_and_where = {"self", "model", "device", "dtype", "progress"}
    settings = inspect.signature(LLM.__init__).parameters.keys() - what_runs_and_where
    table = page("getting-started.md").partition("## Settings of the engine")[2].partition("##")[0]
    named = code_words(table)
    assert settings <= {re.split(r"[=(]", word)[0] for word in named}
    options = {word.removeprefix("--").replace("-", "_") for word in named if word[:2] == "--"}
    assert {field.name for field in fields(EngineOptions)} <= options | {"enable_prefix_caching"}
    assert "no_prefix_caching" in options


def test_sizes_that_pages_tell_are_those_of_the_code():
    starting = page("starting.md")
    assert f"pieces of {staging.PIECE_BYTES >> 20} MiB" in starting
    assert f"At {cubins.LIMIT_BYTES >> 20} MiB" in starting
    assert GPU_MEMORY_UTILIZATION == 0.9
    assert "by default nine tenths of what is free" in page("cache.md")
    assert "nine tenths of the free memory" in page("getting-started.md")


def commands_on_pages() -> list[tuple[str, ...]]:
    """Every `llm-numba` that a page tells to type, in words."""
    texts = [path.read_text() for path in [*DOCS.glob("**/*.md"), ROOT / "README.md"]]
    before = r"(?:\w+=\S+ )?(?:(?:mpirun|srun) .*?)?(?:\.venv/bin/)?"
    typed = re.findall(rf"^\$ {before}(llm-numba .*)$", "\n".join(texts).replace("\\\n", ""), re.M)
    # Up to where the output goes; what stands for more words is none.
    words = (shlex.split(re.split(r" [>|] ", line)[0], comments=True) for line in typed)
    return sorted({tuple(word for word in each[1:] if word != "...") for each in words})


def test_commands_on_pages_have_the_options_that_they_are_given():
    commands = commands_on_pages()
    assert len(commands) > 30
    for words in commands:
        command, rest = get_command(app), list(words)
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        command.make_context(" ".join(words), rest)  # fails on what it does not know


def test_python_on_a_page_is_a_listing_that_a_test_runs():
    listings = {path.read_text() for path in (ROOT / "tests/docs/listings").glob("*.py")}
    for path in [*DOCS.glob("**/*.md"), ROOT / "README.md"]:
        typed = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
        assert set(typed) <= listings, path


def test_the_faults_page_shows_every_fault():
    named = code_words(page("simulator/faults.md").partition("##")[0])
    faults = {fault.__name__ for fault in SimulationError.__subclasses__()}
    assert len(faults) >= 7
    assert faults <= named


def test_each_fault_is_shown_as_the_simulator_tells_it():
    text = page("simulator/faults.md")
    shown = {
        (ROOT / "tests/docs/listings" / name).read_text().partition(":")[0]
        for name in re.findall(r"listings/(fault_\w+\.out)", text)
    }
    assert shown == {fault.__name__ for fault in SimulationError.__subclasses__()}


def test_every_step_of_a_ladder_is_on_its_page():
    pages = {path.name: path.read_text() for path in DOCS.glob("ladders/*.md")}
    pages["first-hour.md"] = page("cuda/first-hour.md")
    for ladder in all_ladders().values():
        of_it = [text for text in pages.values() if f"{{ladder-costs}} {ladder.name}\n" in text]
        if ladder.name == "row_max":  # made from one source with row_sum
            continue
        assert len(of_it) == 1, ladder.name
        for kernel in (kernel for step in ladder.steps for kernel in step.kernels):
            function = kernel.py_func.__qualname__.partition(".")[0]
            # A kernel that several ladders launch is shown on one page, and the others link to it.
            listed = [text for text in pages.values() if f":pyobject: {function}\n" in text]
            assert listed, (ladder.name, function)
