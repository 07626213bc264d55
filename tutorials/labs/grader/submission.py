"""A student's file, as it was handed in."""

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Submission:
    """A file that passed the rules.

    Attributes
    ----------
    path : Path
    source : str
    tree : ast.Module
    imports : tuple of str
        What the lab allows beside the usual modules.
    seconds : int
        Of processor time, for each launch of a check, and for all of its Python.
    """

    path: Path
    source: str
    tree: ast.Module
    imports: tuple[str, ...] = ()
    seconds: int = 20
