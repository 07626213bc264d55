"""Kernels with planted mistakes, for tests that the simulator finds them."""

from pathlib import Path
from types import ModuleType
from typing import Any


def changed(file: ModuleType, *replacements: tuple[str, str]) -> dict[str, Any]:
    """Return what a file of kernels defines if some texts in it, each there once, read otherwise.

    Parameters
    ----------
    file : module
    *replacements : (str, str)
        A text, and what stands in its place.
    """
    source = Path(file.__file__).read_text()
    for text, instead in replacements:
        assert source.count(text) == 1, text
        source = source.replace(text, instead)
    scope = {"__name__": "planted", "__file__": file.__file__}
    exec(compile(source, file.__file__, "exec"), scope)
    return scope
