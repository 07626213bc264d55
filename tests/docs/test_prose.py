"""Pages are in British spelling. What is no English word at all is found by `make lint`."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
FOREIGN = re.compile(
    r"\b(?:behaviors?|colors?|colored|neighbors?|neighboring|centers?|centered|favors?|favorite"
    r"|honors?|labeled|modeled|modeling|canceled|canceling|traveled|fulfills?|gray|catalog|meters?"
    r"|artifacts?|(?:optim|normal|quant|initial|vector|summar|organ|recogn|general|minim|maxim"
    r"|serial|util|parallel|memor|synchron|real)iz(?:e[sdr]?|ing|ations?)|analyz(?:e[sdr]?|ing))\b",
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


def test_pages_are_spelled_in_british_english():
    pages = [path for path in DOCS.glob("**/*.md") if "_build" not in path.parts]
    found = {path.name: FOREIGN.findall(prose(path.read_text())) for path in pages}
    assert len(pages) > 40
    assert {name: each for name, each in found.items() if each} == {}
