"""``claim``: something that is often said, and what came out; ``claims-table``: all of a page.

::

    ## The size of 70B

    ```{claim} refuted, computed
    A 70B model has a hidden size of 12,288.
    ```

    Llama 3 70B has ...

    ```{claims-table}
    ```

The table is read from the page's own source, so that it may stand above the claims.
"""

import re
from collections import Counter
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

VERDICTS = {
    "confirmed": "It is so.",
    "corrected": "There is something in it, but it is not so.",
    "refuted": "It is not so.",
    "not measured yet": "Nobody has run it here. Below stands what will, or what is missing.",
}
_SOURCE = re.compile(
    r"^## (?P<title>[^\n]+)\n\n```\{claim\} (?P<verdict>[\w ]+), (?P<how>[^\n]+)\n.+?\n```$",
    re.MULTILINE | re.DOTALL,
)


class Claim(SphinxDirective):
    """The claim in a frame, its verdict in front: ``VERDICT, HOW IT WAS FOUND``."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make the frame."""
        verdict, _, how = self.arguments[0].partition(", ")
        if verdict not in VERDICTS:
            raise self.error(f"{verdict!r} is none of {', '.join(VERDICTS)}")
        frame = nodes.container(classes=["claim", f"verdict-{verdict.replace(' ', '-')}"])
        head = nodes.paragraph("", "", nodes.strong("", verdict), nodes.Text(f" \N{EN DASH} {how}"))
        said = nodes.block_quote("", *self.parse_content_to_nodes())
        frame += [head, said]
        return [frame]


class ClaimsTable(SphinxDirective):
    """A row for each claim, and how many there are of each verdict."""

    def run(self) -> list[nodes.Node]:
        """Read the page, and parse the generated Markdown in place."""
        source = self.env.doc2path(self.env.docname).read_text()
        found = list(_SOURCE.finditer(source))
        if len(found) != source.count("\n```{claim} "):
            raise self.error("a claim does not stand right below its heading")
        counts = Counter(each["verdict"] for each in found)
        lines = ["| verdict | | of these |", "| --- | --- | --: |"]
        lines += [f"| {name} | {says} | {counts[name]} |" for name, says in VERDICTS.items()]
        lines += ["", "| claim | verdict | how |", "| --- | --- | --- |"]
        lines += [
            f"| [{each['title']}](#{anchor(each['title'])}) | {each['verdict']} | {each['how']} |"
            for each in found
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def anchor(title: str) -> str:
    """Return what a heading is linked to by, as MyST makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("claim", Claim)
    app.add_directive("claims-table", ClaimsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
