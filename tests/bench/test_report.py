"""A page on a machine, from the records that are there; and what is said where there are none."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_numba.bench.report.archive import find_machines, machines, read_folder
from llm_numba.bench.report.page import Made, Missing, Picture, Section, html, markdown
from llm_numba.bench.report.pictures import Dot, roofline, scaling
from llm_numba.bench.report.sections import PARTS, sections
from llm_numba.bench.tables import Table
from llm_numba.cli.app import app
from llm_numba.cli.findings import Finding
from llm_numba.errors import LLMNumbaError

RESULTS = Path(__file__).parents[2] / "docs" / "results"
EMPTY = {"br", "meta", "input", "hr", "img", "rect", "path", "use", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and whether each ends where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def attributes(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


def run(*arguments):
    return CliRunner().invoke(app, ["report", "--no-doctor", *map(str, arguments)])


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The page on all machines that the repository has records of."""
    out = tmp_path_factory.mktemp("report") / "all.html"
    done = run("--device", "all", "--out", out)
    assert done.exit_code == 0, done.output
    return out.read_text(encoding="utf-8")


@pytest.fixture
def some(tmp_path):
    """A folder with a few small records of one machine."""
    for pattern in ("comm_amd*_2-ranks.json", "cpu_amd*.json", "simulator_amd*.json"):
        (path,) = RESULTS.glob(pattern)
        shutil.copy(path, tmp_path)
    return tmp_path


# -- The page -----------------------------------------------------------------------------------


def test_a_page_is_whole_and_needs_nothing_else(everything):
    page = Page(everything)
    assert page.open == []
    assert not page.attributes("script")
    assert not page.attributes("link")
    assert not page.attributes("img")
    assert "@import" not in everything
    assert {each["href"][0] for each in page.attributes("a")} == {"#"}
    assert "url(http" not in everything


def test_each_picture_says_what_it_shows_to_those_who_cannot_see_it(everything):
    pictures = Page(everything).attributes("svg")
    assert len(pictures) > 8
    assert all(each["role"] == "img" and len(each["aria-label"]) > 20 for each in pictures)


def test_links_to_sections_lead_somewhere(everything):
    page = Page(everything)
    ids = {attrs["id"] for name, attrs in page.elements if name in ("h2", "h3")}
    assert {each["href"].removeprefix("#") for each in page.attributes("a")} == ids


def test_each_part_of_each_machine_has_figures_or_the_command_that_makes_them(everything):
    count = len(machines(read_folder(RESULTS)))
    for part in PARTS:
        assert len(re.findall(f"<h3 id=\"s\\d+\">{re.escape(part.title)}".replace("'", "&#x27;"),
                              everything)) == count  # fmt: skip


def test_figures_of_the_records_are_in_it(everything):
    record = json.loads((RESULTS / "kernels_nvidia-h100-80gb-hbm3.json").read_text())
    copy = next(each for each in record["results"] if each["name"] == "copy")
    assert f"copy {copy['median']:,.0f} GB/s" in everything
    assert record["environment"]["git"]["commit"][:10] in everything


def test_a_drawing_keeps_to_its_frame():
    work = {"decode": [Dot("a", 1e6, 1e6, 1e-6), Dot("b", 1e6, 0, 1e-6)],
            "prefill": [Dot("c", 1e6, 1e9, 1e-4)]}  # fmt: skip
    for picture in (
        roofline(work, 3e12, 9e14),
        roofline(work, 3e12),
        roofline({"decode": []}, 3e12, 9e14),
        scaling({"tensor": {1: 10.0, 2: 18.0, 4: 30.0}, "pipeline": {1: 10.0, 2: 19.0}}),
        scaling({"tensor": {2: 18.0}}),
    ):
        frame = [float(each) for each in re.search(r'viewBox="([^"]+)"', picture.svg)[1].split()]
        spots = re.findall(r'<(?:rect|text) x="([\d.-]+)" y="([\d.-]+)"', picture.svg)
        spots += re.findall(r"([\d.-]+),([\d.-]+)", picture.svg)
        for x, y in spots:
            assert 0 <= float(x) <= frame[2], picture.alt
            assert 0 <= float(y) <= frame[3], picture.alt


def test_the_roofline_says_how_far_from_its_ceiling_the_longest_work_is():
    # 2 FLOPs a byte under 3 TB/s: a ceiling of 6 TFLOP/s, of which 3 are half.
    picture = roofline({"decode": [Dot("product", 1e9, 2e9, 2e9 / 3e12)]}, 3e12, 9e14)
    assert "product, has 2 FLOPs a byte and reaches 50 % of its ceiling" in picture.alt


# -- What is not there --------------------------------------------------------------------------


def test_without_records_each_part_names_the_command_that_makes_one():
    for has_gpu in (False, True):
        for part, section in zip(PARTS, sections([], has_gpu), strict=True):
            told = [block.words for block in section.blocks]
            assert len(told) == len(part.commands) > 0
            for words, (benchmark, command) in zip(told, part.commands.items(), strict=True):
                assert f"no record of `{benchmark}`" in words
                assert f"`{command}` makes one" in words
                assert words.endswith("with a GPU.") == (part.gpu and not has_gpu)


def test_an_empty_folder_still_gives_a_page_on_this_machine(tmp_path):
    out = tmp_path / "page.md"
    done = run("--results", tmp_path, "--out", out)
    assert done.exit_code == 0, done.output
    assert "`llm-numba bench kernels` makes one" in out.read_text()


def test_what_works_here_is_on_the_page_of_this_machine(tmp_path, monkeypatch):
    found = [Finding("CPU path", "broken", "no <b> of it", "pip install it")]
    monkeypatch.setattr("llm_numba.cli.doctor.examine", lambda: found)
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", "--results", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "no &lt;b&gt; of it <code>pip install it</code>" in out.read_text()


# -- Machines -----------------------------------------------------------------------------------


def test_a_machine_is_found_by_a_part_of_its_name():
    records = read_folder(RESULTS)
    assert find_machines(records, "h100", "here") == ["NVIDIA H100 80GB HBM3"]
    assert find_machines(records, None, "here") == ["here"]
    assert find_machines(records, "all", "here") == machines(records)
    assert find_machines(records, "all", "NVIDIA H100 80GB HBM3")[0] == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(("wanted", "words"), [("tpu", "no machine"), ("a", "several machines")])
def test_a_name_of_none_or_of_several_is_an_error(wanted, words):
    with pytest.raises(LLMNumbaError, match=words) as error:
        find_machines(read_folder(RESULTS), wanted, "here")
    assert "NVIDIA H100 80GB HBM3" in error.value.remedy


# -- Bad files ----------------------------------------------------------------------------------


def drop(*path):
    def change(record):
        for each in path[:-1]:
            record = record[each]
        del record[path[-1]]

    return change


BROKEN = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no JSON": lambda text: "\x00\x01",
    "a list": lambda text: "[1, 2]",
    "of somebody else": lambda text: '{"name": "package", "version": "1.0"}',
    "deep": lambda text: "[" * 100_000,
}
CHANGED = {
    "no environment": drop("environment"),
    "no date": drop("date"),
    "a date without zone": lambda record: record.update(date="2030-01-31T12:00:00"),
    "a number for a command": lambda record: record.update(command=[7]),
    "no results": drop("results"),
    "a result without median": drop("results", 3, "median"),
    "a text for a median": lambda record: record["results"][3].update(median="fast"),
    "null for results": lambda record: record.update(results=None),
    "another schema": lambda record: record.update(schema=99),
}
ALL_BROKEN = BROKEN | {
    name: lambda text, change=change: json.dumps((change(record := json.loads(text)), record)[1])
    for name, change in CHANGED.items()
}


@pytest.mark.parametrize("change", ALL_BROKEN.values(), ids=ALL_BROKEN)
def test_a_file_that_is_no_record_is_named_and_nothing_is_written(change, some):
    path = next(some.glob("cpu_*.json"))
    path.write_text(change(path.read_text()))
    done = run("--results", some, "--device", "all", "--out", some / "page.html")
    assert done.exit_code == 2, done.output
    assert path.name in done.stderr
    assert "Fix: " in done.stderr
    assert not (some / "page.html").exists()


def test_a_page_that_was_there_stays_when_a_new_one_fails(some):
    out = some / "page.html"
    out.write_text("before")
    (some / "bad.json").write_text("{")
    assert run("--results", some, "--out", out).exit_code == 2
    assert out.read_text() == "before"
    assert not list(some.glob(".page*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--results", "nowhere"), "There is no folder nowhere"),
        (("--out", "/proc/none/page.html"), "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


# -- Rendering ----------------------------------------------------------------------------------

BLOCKS = [
    "text with `code` & <i>",
    Table(["a|b", "n"], [["x|y", "<1>"]]),
    Table(["none"], []),
    Picture("<svg></svg>", "A <picture>.", "caption"),
    Missing("`make` it"),
    Made("by <me>"),
    "",
]


def test_text_of_a_record_is_text_in_html():
    text = html("a < b", [Section("<script>", BLOCKS)])
    assert "<title>a &lt; b</title>" in text
    assert "<script>" not in text
    assert "<code>code</code> &amp; &lt;i&gt;" in text
    assert "<td>&lt;1&gt;</td>" in text
    assert Page(text).open == []


def test_markdown_has_no_html_and_tells_pictures_in_words():
    text = markdown("Title", [Section("Part", BLOCKS)])
    assert text.startswith("# Title\n\n### Part\n\ntext with `code` & &lt;i>\n\n| a\\|b | n |")
    assert "| x\\|y | &lt;1> |" in text
    assert "*A &lt;picture>.*" in text
    assert "> `make` it" in text
    assert "<svg" not in text
