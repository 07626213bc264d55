"""Completions that grow all at once, written one after another."""

from collections import defaultdict

from llm_numba.cli.console import Lines, notes, styled


class Transcript:
    """Writes the completions of a batch in order, the first unfinished one as it grows.

    What comes for a later completion waits until those before it are written. With more than one,
    a heading on stderr names each, so stdout carries the text alone.

    Parameters
    ----------
    prompts : list of str
        The batch.
    n : int
        Completions of each prompt.
    echo : bool
        Write each completion's prompt before it.
    """

    def __init__(self, prompts: list[str], n: int = 1, *, echo: bool = False) -> None:
        self._prompts = prompts
        self._n = n
        self._echo = echo
        self._order = [(number, index) for number in range(len(prompts)) for index in range(n)]
        self._waiting: dict[tuple[int, int], str] = defaultdict(str)
        self._finished: set[tuple[int, int]] = set()
        self._position = 0
        self._lines = Lines()
        self._open()

    def add(self, number: int, index: int, text: str, *, finished: bool) -> None:
        """Take the next piece of a completion.

        Parameters
        ----------
        number, index : int
            Which prompt, and which of its completions.
        text : str
            The piece.
        finished : bool
            Whether it is the last.
        """
        self._waiting[number, index] += text
        if finished:
            self._finished.add((number, index))
        while self._position < len(self._order):
            key = self._order[self._position]
            self._lines.write(self._waiting.pop(key, ""))
            if key not in self._finished:
                return
            self.end_line()
            self._position += 1
            self._open()

    def end_line(self) -> None:
        """End the line that was begun, see :meth:`Lines.end_line`."""
        self._lines.end_line()

    def _open(self) -> None:
        """Write what stands above the completion whose turn it is."""
        if self._position == len(self._order):
            return
        number, index = self._order[self._position]
        if len(self._order) > 1:
            self._lines.write("\n" if self._position else "")
            heading = f"── prompt {number + 1} of {len(self._prompts)}"
            heading += f", completion {index + 1} of {self._n}" if self._n > 1 else ""
            notes().print(styled(heading, "dim"))
        self._lines.write(self._prompts[number] if self._echo else "")
