"""The pages to look things up in: complete, and in the words of the code."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

from llm_numba import errors
from llm_numba.errors import LLMNumbaError
from llm_numba.variables import VARIABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def index():
    """The messages of our errors, as the error index reads them from the source."""
    path = DOCS / "_ext" / "error_messages.py"
    spec = importlib.util.spec_from_file_location("error_messages", path)
    module = sys.modules.setdefault("error_messages", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


# -- Errors --------------------------------------------------------------------------------------


def test_each_class_of_errors_has_messages(index):
    classes = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, LLMNumbaError)
    }
    found = index.by_class(classes)
    assert classes == {name for name, messages in found.items() if messages}
    assert sum(map(len, found.values())) == len(index.messages())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("ConfigError", "{source}: architecture {architecture} is not supported."),  # by a method
        ("SamplingParamsError", "{name}={value} is out of range."),  # by a static method
        ("CacheError", "num_blocks={num blocks} blocks of {block size} tokens cannot hold one "
         "sequence of max_model_len={max model len} tokens."),  # text in several pieces
        ("DependencyError", "Nsight Compute (ncu) is not installed."),
    ],
)  # fmt: skip
def test_the_index_finds_a_message(index, error, cause):
    assert cause in {each.cause for each in index.messages() if each.error == error}


def test_every_message_says_a_cause_and_a_remedy(index):
    for message in index.messages():
        assert message.cause.strip("{}. "), message
        assert message.remedy.strip(". "), message


def pattern(template: str) -> re.Pattern:
    pieces = re.split(r"\{[^{}]*\}", " ".join(template.split()))
    return re.compile(".+".join(map(re.escape, pieces)))


def test_messages_that_these_pages_show_are_messages_of_ours(index):
    pages = [*DOCS.glob("reference/*.md"), DOCS / "troubleshooting.md"]
    shown = [
        (page.name, *found)
        for page in pages
        for found in re.findall(r"^Error: (.+)\n +Fix: (.+)$", page.read_text(), re.MULTILINE)
    ]
    assert shown
    for page, cause, remedy in shown:
        assert any(
            pattern(each.cause).fullmatch(cause) and pattern(each.remedy).fullmatch(remedy)
            for each in index.messages()
        ), (page, cause, remedy)


def test_problems_of_a_gpu_are_told_as_the_code_tells_them():
    page = (DOCS / "troubleshooting.md").read_text()
    source = (ROOT / "llm_numba" / "runtime" / "device.py").read_text()
    shown = set(re.findall(r"^Error: device='cuda' cannot be used: (.+)\.$", page, re.MULTILINE))
    assert len(shown) >= 3
    assert {problem for problem in shown if problem not in source} == set()


# -- Environment variables -----------------------------------------------------------------------


def test_the_page_names_every_variable_of_ours():
    sources = [*ROOT.glob("llm_numba/**/*.py"), *ROOT.glob("tests/**/*.py"), ROOT / "Makefile"]
    named = set(re.findall(r"\bLLM_NUMBA_[A-Z_]+\b", "\n".join(map(Path.read_text, sources))))
    page = (DOCS / "reference" / "environment.md").read_text()
    told = {each.name for each in VARIABLES} | set(re.findall(r"`(\w+)`", page))
    # A mark of the processes of one test: nobody sets it.
    assert named - told - {"LLM_NUMBA_TEST_RUN"} == set()
    assert {name for name in told if name.startswith("LLM_NUMBA_")} <= named


# -- Claims --------------------------------------------------------------------------------------

CLAIMS = (DOCS / "reference" / "claims.md").read_text().split("\n## ")[1:]


@pytest.mark.parametrize("section", CLAIMS, ids=lambda section: section.partition("\n")[0])
def test_a_claim_has_a_verdict_and_a_command_that_finds_out(section):
    verdicts = "confirmed|corrected|refuted|not measured yet"
    assert re.match(rf"[^\n]+\n\n```\{{claim\}} ({verdicts}), \S", section)
    assert "\n$ " in section or "no command" in section


def test_figures_of_speed_in_claims_come_from_records():
    """What others claim stands in a frame, and what is run in a listing."""
    for section in CLAIMS:
        text = re.sub(r"```.*?```|`[^`]*`", "", section, flags=re.DOTALL)
        typed = re.findall(r"[\d.,]+ (?:GB/s|TB/s|TFLOP/s|µs|ms|tokens/s)\b", text)
        assert not typed, (section.partition("\n")[0], typed)


# -- Glossary ------------------------------------------------------------------------------------


def glossary() -> dict[str, str]:
    """Terms with what they mean."""
    page = (DOCS / "reference" / "glossary.md").read_text()
    lists = re.findall(r"^```\{glossary\}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    entries = (entry.partition("\n") for each in lists for entry in each.strip().split("\n\n"))
    return {term: " ".join(meaning.split()) for term, _, meaning in entries}


def test_the_glossary_has_every_axis_letter():
    letters = {term for term in glossary() if len(term) == 1}
    assert letters == set("BSTHGDMNKVLEFPR")


def test_letters_mean_on_the_walkthrough_what_the_glossary_says():
    told = glossary()
    page = (DOCS / "walkthrough" / "index.md").read_text()
    rows = re.findall(r"^\| ([A-Z]) \| ([^|]+?) +\|", page, re.MULTILINE)
    assert len(rows) >= 10
    for letter, meaning in rows:
        first = re.match(r"[\w -]+", meaning)[0].strip()
        assert first.lower() in told[letter].lower().replace("{term}`mlp`", "mlp"), (letter, first)


def test_terms_are_in_the_order_of_the_alphabet():
    page = (DOCS / "reference" / "glossary.md").read_text()
    for section in page.split("\n## ")[1:]:
        terms = re.findall(r"^(\w[^\n]*)\n  \S", section, re.MULTILINE)
        assert terms == sorted(terms, key=str.lower)
