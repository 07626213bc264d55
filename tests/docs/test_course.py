"""Pages of the CUDA course have the same parts, and are whole without a record of a GPU."""

import re
from pathlib import Path

import pytest

from llm_numba.bench.machine import PARTS

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "docs" / "cuda"
PAGES = sorted(
    path.stem for path in COURSE.glob("*.md") if path.stem not in {"index", "first-hour"}
)
# Whole sections behind four colons; what is in them is only there with a record.
MEASURED = re.compile(r"^::::\{if-record\} machine_\*\.json (\w+)/\*\n(.*?)^::::$", re.M | re.S)


def page(name: str) -> str:
    return (COURSE / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_a_kernel_looks_at_it_and_asks(name):
    text = page(name)
    assert re.search(r"```\{(literalinclude|figure-of)\}", text)
    assert "## Under the microscope" in text
    assert re.search(r"```\{(microscope|microscope-of|ladder-picture)\}", text)
    assert text.count(":::{question}") >= 2


@pytest.mark.parametrize("name", PAGES)
def test_a_figure_of_the_record_stands_only_where_there_is_one(name):
    text = page(name)
    assert MEASURED.search(text)
    assert "machine_*.json" not in MEASURED.sub("", text)
    assert not re.search(r"\{machine(-\w+)?\}", MEASURED.sub("", text))


def test_every_part_of_the_benchmark_is_on_a_page():
    """Of the course, or where a popular claim is answered."""
    told = {part for name in PAGES for part, _ in MEASURED.findall(page(name))}
    claims = (ROOT / "docs" / "reference" / "claims.md").read_text()
    told |= set(
        re.findall(r"^:::::\{if-record\} machine_\*\.json (unified|cores)/\*$", claims, re.M)
    )
    families = {"instructions": "instruction"}
    assert told == {families.get(part, part) for part in PARTS}


def test_the_table_of_contents_names_every_page_in_order():
    index = page("index")
    listed = re.findall(r"^\| \[[^]]+\]\(([\w-]+)\.md\)", index, re.MULTILINE)
    hidden = index.partition(":hidden:")[2].split()
    assert listed == [each for each in hidden if each != "```"]
    assert set(listed) == {*PAGES, "first-hour"}
