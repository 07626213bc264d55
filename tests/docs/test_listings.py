"""Every listing of the documentation runs and prints what the page shows."""

import re
import runpy
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
    words, decimals = words_and_decimals(capsys.readouterr().out)
    recorded_words, recorded_decimals = words_and_decimals(listing.with_suffix(".out").read_text())
    assert words == recorded_words
    assert all(map(close, decimals, recorded_decimals)), (decimals, recorded_decimals)


def test_every_listing_and_every_recorded_output_is_on_a_page():
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    text = "\n".join(page.read_text() for page in pages)
    for listing in LISTINGS:
        assert f"listings/{listing.name}" in text
        assert f"listings/{listing.stem}.out" in text


def test_the_readme_shows_the_first_program_and_its_output():
    readme = (ROOT / "README.md").read_text()
    program = (HERE / "listings" / "first_program.py").read_text()
    assert f"```python\n{program}```" in readme
    assert f"```text\n{program_output()}```" in readme


def program_output() -> str:
    return (HERE / "listings" / "first_program.out").read_text()
