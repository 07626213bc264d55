"""Words and figures as a reader wants them."""


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 sector", "1,024 bytes".

    Parameters
    ----------
    count : int
    noun : str
        In the singular; the plural must end in -s.
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def times(value: int, ideal: int) -> str:
    """Return how many times the ideal a figure is, to three digits: "4.5x".

    Parameters
    ----------
    value, ideal : int
        The ideal is not 0.
    """
    ratio = value / ideal
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def printable(text: str) -> str:
    """Return text with a question mark for each character that a terminal might obey.

    Parameters
    ----------
    text : str
        One line.
    """
    return "".join(c if c.isprintable() else "?" for c in text)
