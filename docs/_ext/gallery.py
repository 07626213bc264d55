"""How the tutorials' pictures come onto their pages, with words for those who cannot see them.

Three kinds: figures of Matplotlib, as SVG, whose words are their label (``figure.set_label``);
films of such figures, as GIF; and pictures of the microscope, which describe themselves.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.animation import Animation, PillowWriter
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
    names = block_vars["example_globals"]
    # A block whose last line is no value leaves there what an earlier one put.
    last, names["___"] = names.get("___"), None
    for words, suffix, save in _pictures(last):
        path = Path(next(block_vars["image_path_iterator"])).with_suffix(suffix)
        if not words:
            raise ValueError(f"{path.name}: say what the figure shows, figure.set_label(words).")
        save(path)
        shown.append(figure_rst([path], gallery_conf["src_dir"], words))
    pyplot.close("all")
    return "".join(shown)


def _pictures(last: Any) -> Iterator[tuple[str, str, Callable[[Path], Any]]]:
    """Give what stands in a block's last line, and open figures: words, format, how to save."""
    if isinstance(last, Picture):
        yield unescape(re.search('aria-label="(.*?)"', last)[1]), ".svg", partial(_write, last)
    if isinstance(last, Animation):
        (figure,) = map(pyplot.figure, pyplot.get_fignums())
        yield figure.get_label(), ".gif", partial(last.save, writer=PillowWriter(fps=2), dpi=80)
        return
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        saved = partial(figure.savefig, bbox_inches="tight", metadata={"Date": None})
        yield figure.get_label(), ".svg", saved


def _write(svg: str, path: Path) -> None:
    path.write_text(svg)
