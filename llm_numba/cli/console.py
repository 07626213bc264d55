"""What the commands share of the terminal: two streams, errors, a progress bar for slow loading.

Models write arbitrary text. It goes to stdout as it is, never through Rich's markup, and on a
terminal without the control characters that could move the cursor or change the title.
"""

import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llm_numba import variables
from llm_numba.errors import LLMNumbaError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# A shorter wait needs no explanation, and a bar that flashes up is only noise.
_PATIENCE_S = 0.5


def notes() -> "Console":
    """Return the console for everything that is not the asked-for text: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def tables() -> "Console":
    """Return the console for tables that were asked for: stdout."""
    from rich.console import Console

    return Console(highlight=False)


def write(text: str) -> None:
    """Write a model's text to stdout at once.

    Parameters
    ----------
    text : str
        Written as it is; on a terminal, control characters other than line breaks and tabs are
        left out.
    """
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Lines:
    """Writes a model's text to stdout and knows whether a line is begun."""

    def __init__(self) -> None:
        self._at_start = True

    def write(self, text: str) -> None:
        """Write a piece of text, see :func:`write`."""
        if text:
            # Noted first: Ctrl-C may come while the text is being written.
            self._at_start = text.endswith("\n")
            write(text)

    def end_line(self) -> None:
        """End the line that was begun, so that what follows starts on its own."""
        if not self._at_start:
            self.write("\n")


def printable(text: str) -> str:
    """Return the text without control characters, line breaks and tabs excepted."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def styled(text: str, style: str = "") -> "Text":
    """Return text that Rich shows as it is: ``[bold]`` in a prompt or a path stays ``[bold]``."""
    from rich.text import Text

    return Text(printable(text), style)


def is_other_rank() -> bool:
    """Whether a launcher has started this as one of several programs, and not the first."""
    if not any(map(variables.beginning_with, ("OMPI_COMM_WORLD_", "PMI_", "SLURM_STEP_"))):
        return False  # as nearly always, and found without loading anything
    from llm_numba.parallel.launch import launched

    launch = launched()
    return launch is not None and launch.rank > 0


def report(error: LLMNumbaError) -> None:
    """Print an error's cause and its remedy on stderr, a line each.

    Of several ranks the first does: until they have met, all make the same mistakes. Later ones
    are told by the mesh, with the name of the rank.
    """
    if is_other_rank():
        return
    console = notes()
    for label, style, sentence in (
        ("Error: ", "bold red", error.cause),
        ("  Fix: ", "bold green", error.remedy),
    ):
        line = styled(label, style).append_text(styled(" ".join(sentence.split()), "not bold"))
        console.print(line, soft_wrap=True)


@contextmanager
def loading_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar if loading takes long and stderr is a terminal.

    Parameters
    ----------
    what : str
        What is loaded, shown before the bar.

    Yields
    ------
    callable
        ``progress(name, done_bytes, total_bytes)`` for :class:`llm_numba.LLM`.
    """
    console = notes()
    if not console.is_terminal:
        yield lambda name, done, total: None
        return

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(f"Loading {printable(what)}", total=None)
    begin = time.perf_counter()

    def progress(name: str, done: int, total: int) -> None:
        if time.perf_counter() - begin > _PATIENCE_S:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show what is being waited for, if stderr is a terminal.

    Parameters
    ----------
    what : str
    """
    console = notes()
    if not console.is_terminal:
        yield
        return
    with console.status(printable(what)):
        yield
