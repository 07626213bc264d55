"""Stop strings in a stream: found across token borders, never shown in part."""


class StopStrings:
    """Watches a stream of text for strings that end it.

    Parameters
    ----------
    strings : list of str
    """

    def __init__(self, strings: list[str]) -> None:
        self._strings = strings
        self._held = ""

    def push(self, text: str, *, last: bool) -> tuple[str, str | None]:
        """Add text; return what may be shown.

        Text that may be the beginning of a stop string is held back until it is clear.

        Parameters
        ----------
        text : str
        last : bool
            No more text will come: hold nothing back.

        Returns
        -------
        text : str
            Up to, not including, a stop string.
        found : str or None
            The stop string that came first; of several at one place, the one listed first.
        """
        if not self._strings:
            return text, None
        text = self._held + text
        places = [(text.find(s), i) for i, s in enumerate(self._strings) if s in text]
        if places:
            place, i = min(places)
            self._held = ""
            return text[:place], self._strings[i]
        keep = 0 if last else max(_overlap(text, s) for s in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None


def _overlap(text: str, string: str) -> int:
    """Return the length of the longest end of text that begins the string."""
    longest = min(len(text), len(string) - 1)
    return next((k for k in range(longest, 0, -1) if text.endswith(string[:k])), 0)
