"""Every listing of the documentation runs and prints what the page shows."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LISTINGS = sorted((HERE / "listings").glob("*.py"))
DECIMAL = re.compile(r"-?\d+\.\d+")


def words_and_decimals(printed: str) -> tuple[str, list[str]]:
    return DECIMAL.sub("#", printed), DECIMAL.findall(printed)


def close(ours: str, recorded: str) -> bool:
    """Whether two decimals differ by at most one in the last digit shown.

    BLAS adds in an order that depends on the processor, so the last digit may round either way.
    """
    digits = len(recorded.partition(".")[2])
    return abs(float(ours) - float(recorded)) < 1.5 * 10**-digits


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda path: path.stem)
def test_a_listing_prints_what_the_page_shows(listing, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(listing), run_name="__main__")
    printed = capsys.readouterr().out.replace(f"{ROOT}/", "")  # faults name files in full
    words, decimals = words_and_decimals(printed)
    recorded_words, recorded_decimals = words_and_decimals(listing.with_suffix(".out").read_text())
    assert words == recorded_words
    assert all(map(close, decimals, recorded_decimals)), (decimals, recorded_decimals)


def test_every_listing_is_on_a_page():
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    text = "\n".join(page.read_text() for page in pages)
    for listing in LISTINGS:
        included = f"listings/{listing.name}" in text and f"listings/{listing.stem}.out" in text
        # A directive shows it with its output, and what another language has for it.
        name = listing.stem.removeprefix("beside_")
        is_beside = re.search(rf"^```\{{beside\}} {name}(\.cu|_torch\.py)$", text, re.MULTILINE)
        assert included or is_beside or listing.read_text() in text, listing.name


def test_the_readme_shows_the_first_program_and_its_output():
    readme = (ROOT / "README.md").read_text()
    program = HERE / "listings" / "first_program.py"
    assert f"```python\n{program.read_text()}```" in readme
    assert f"```text\n{program.with_suffix('.out').read_text()}```" in readme


def test_the_readme_shows_what_the_demo_tells():
    command = [sys.executable, "-m", "llm_numba", "demo"]
    told = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    readme = (ROOT / "README.md").read_text()
    demo = readme.partition("```text demo\n")[2].partition("```")[0].splitlines()
    shown = [line for line in demo if not line.startswith((">>>", "prompt "))]
    assert " ".join(shown).split() == told.split()  # the README wraps its lines
