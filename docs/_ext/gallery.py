"""How the tutorials' pictures come onto their pages: as SVG, and with words for who cannot see.

Two kinds of picture: figures of Matplotlib, whose words are their label (``figure.set_label``), and
those of the microscope, which describe themselves.
"""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from sphinx_gallery.scrapers import figure_rst

from llm_numba.microscope import Picture


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the pictures that a block of code made and return the text that shows them.

    Parameters
    ----------
    block : tuple
        Of code, as sphinx-gallery cut it.
    block_vars : dict
        What the code left behind, and names for the files.
    gallery_conf : dict
        The settings.

    Raises
    ------
    ValueError
        If nothing says in words what a figure shows.
    """
    shown = []
    for words, svg in _pictures(block_vars["example_globals"].get("___")):
        path = Path(next(block_vars["image_path_iterator"])).with_suffix(".svg")
        if not words:
            raise ValueError(f"{path.name}: say what the figure shows, figure.set_label(words).")
        if isinstance(svg, pyplot.Figure):
            svg.savefig(path, bbox_inches="tight", metadata={"Date": None})
        else:
            path.write_text(svg)
        shown.append(figure_rst([path], gallery_conf["src_dir"], words))
    pyplot.close("all")
    return "".join(shown)


def _pictures(last: Any) -> Iterator[tuple[str, Any]]:
    """Give words and picture of what stands in the block's last line, and of open figures."""
    if isinstance(last, Picture):
        yield unescape(re.search('aria-label="(.*?)"', last)[1]), last
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        yield figure.get_label(), figure
