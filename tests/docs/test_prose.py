"""How pages are spelled. No dictionary comes with the tests, so this knows what often slips in."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FOREIGN = re.compile(
    r"\b(?:behaviors?|colors?|colored|neighbors?|neighboring|centers?|centered|favors?|favorite"
    r"|honors?|labeled|modeled|modeling|canceled|canceling|traveled|fulfills?|gray|catalog|meters?"
    r"|artifacts?|(?:optim|normal|quant|initial|vector|summar|organ|recogn|general|minim|maxim"
    r"|serial|util|parallel|memor|synchron|real)iz(?:e[sdr]?|ing|ations?)|analyz(?:e[sdr]?|ing))\b",
    re.IGNORECASE,
)
MISSPELT = re.compile(
    r"\b(?:teh|recieve\w*|seperate\w*|occured|occuring|refered|transfered|prefered|dependan\w*"
    r"|existance|lenght|wich|thier|untill|accross|adress\w*|begining|comming|neccessar\w*"
    r"|occassion\w*|paralell\w*|publically|similiar|succesful\w*|tommorow|truely|writting)\b",
    re.IGNORECASE,
)


def prose(text: str) -> str:
    """Leave out code, directives, formulas and where links lead."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^:{3,}\{[\w-]+\}|^:\w[\w-]*:.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|\$[^$]*\$", " ", text)


def test_prose_is_found_and_code_is_not():
    text = "A `color` of [neighbours](color.md).\n```python\ncolor\n```\n:::{question} Gray?\n"
    assert FOREIGN.findall(prose(text)) == ["Gray"]


@pytest.mark.parametrize("words", [FOREIGN, MISSPELT], ids=["foreign", "misspelt"])
def test_pages_are_spelled_in_british_english(words):
    pages = [path for path in DOCS.glob("**/*.md") if "_build" not in path.parts]
    found = {path.name: words.findall(prose(path.read_text())) for path in pages}
    assert len(pages) > 40
    assert {name: each for name, each in found.items() if each} == {}
