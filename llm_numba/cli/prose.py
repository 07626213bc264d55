"""Streamed text whose lines break between words, where a terminal would break inside one."""

import shutil
import sys

from llm_numba.cli.console import Lines


class Prose:
    """Writes an answer to stdout as it grows.

    On a terminal, a word waits until it is complete and then goes to the next line if it does not
    fit. Into a pipe the text goes unchanged.

    Parameters
    ----------
    width : int or None
        Columns of the terminal; ``None`` asks it.
    """

    def __init__(self, width: int | None = None) -> None:
        terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._width = width or terminal
        self._column = 0
        self._gap = ""
        self._word = ""
        self._lines = Lines()

    def add(self, text: str) -> None:
        """Take the next piece of the text."""
        self._lines.write(text if self._width is None else "".join(map(self._take, text)))

    def end(self) -> None:
        """Write what was held back, and end the line if one was begun."""
        self._lines.write(self._place())
        self._lines.end_line()

    def _take(self, character: str) -> str:
        """Return what one more character makes certain."""
        if character not in " \n":
            self._word += character
            return ""
        certain = self._place()
        if character == "\n":
            self._column, self._gap = 0, ""
            return certain + "\n"
        self._gap += character
        return certain

    def _place(self) -> str:
        """Return the word that is complete now, after a gap or on a new line."""
        if not self._word:
            return ""
        fits = self._column + len(self._gap) + len(self._word) <= self._width
        before = self._gap if fits or not self._column else "\n"
        self._column = len(self._word) + (self._column + len(before) if before != "\n" else 0)
        placed, self._word, self._gap = before + self._word, "", ""
        return placed
