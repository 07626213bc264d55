"""A few SVG shapes. Colours are CSS classes, so that a drawing follows the page's theme.

Classes of shapes and text are defined in ``drawing.css``: ``a`` to ``d`` are the four accent
colours, ``soft`` is a pale surface, ``line`` an outline, ``dim`` a quiet text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape

# Width of a column of the page; drawings are made at this size and scaled down from it.
WIDTH = 640


class Drawing:
    """An SVG drawing of fixed size that grows shape by shape.

    Parameters
    ----------
    width, height : float
        In CSS pixels.

    Attributes
    ----------
    links : list of str
        What :meth:`link` leads to, so that a page can check it.
    """

    def __init__(self, width: float = WIDTH, height: float = 200) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []
        self.links: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, style: str = "line",
        *, opacity: float = 1.0, radius: float = 3,
    ) -> None:  # fmt: skip
        """Add a rectangle."""
        fade = f' fill-opacity="{opacity:.3f}"' if opacity < 1 else ""
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="{radius}" class="{style}"{fade}/>'
        )

    def text(
        self, x: float, y: float, words: str, style: str = "", *, anchor: str = "middle",
        turn: float = 0,
    ) -> None:  # fmt: skip
        """Add a line of text, centred at y."""
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}"{turned} '
            f'xml:space="preserve">{escape(words)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, words: str | Sequence[str],
        style: str = "soft", *, text: str = "", opacity: float = 1.0,
    ) -> None:  # fmt: skip
        """Add a rectangle with one or several lines of text in its middle."""
        self.rect(x, y, width, height, style, opacity=opacity)
        lines = [words] if isinstance(words, str) else words
        for i, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + (i - (len(lines) - 1) / 2) * 15, line, text)

    def line(self, points: Sequence[tuple[float, float]], style: str = "stroke") -> None:
        """Add a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<polyline points="{path}" class="{style}"/>')

    def arrow(self, points: Sequence[tuple[float, float]], style: str = "stroke") -> None:
        """Add a line with a head at its last point; the last stretch must be straight."""
        self.line(points, style)
        (x0, y0), (x, y) = points[-2:]
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        ux, uy = (x - x0) / length, (y - y0) / length
        head = [(x, y), (x - 8 * ux - 4 * uy, y - 8 * uy + 4 * ux),
                (x - 8 * ux + 4 * uy, y - 8 * uy - 4 * ux)]  # fmt: skip
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in head)
        self._shapes.append(f'<polygon points="{path}" class="head"/>')

    @contextmanager
    def link(self, target: str, said: str) -> Iterator[None]:
        """Let what is drawn within lead somewhere.

        Parameters
        ----------
        target : str
            ``llm_numba.engine.core.Engine``: its source. ``page:command-line``: a page.
        said : str
            What the link is called where it is not seen.
        """
        self._shapes.append(f'<a href="{{{len(self.links)}}}" aria-label="{escape(said)}">')
        self.links.append(target)
        yield
        self._shapes.append("</a>")

    def svg(self, alt: str, addresses: Sequence[str] = ()) -> str:
        """Return the SVG element.

        Parameters
        ----------
        alt : str
            What a reader who cannot see it should know; already escaped.
        addresses : sequence of str
            Of :attr:`links`, as seen from the page.
        """
        # What is in an image cannot be reached by keyboard, so a drawing with links is a group.
        role = "group" if self.links else "img"
        body = "".join(self._shapes)
        for i, address in enumerate(addresses):
            body = body.replace(f'href="{{{i}}}"', f'href="{address}"')
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" '
            f'role="{role}" aria-label="{alt}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
        )


def bars(rows: Sequence[tuple[str, float, float, float, str]]) -> Drawing:
    """Draw horizontal bars from zero, with whiskers.

    Parameters
    ----------
    rows : sequence of (label, value, low, high, value's text)
    """
    drawing = Drawing(WIDTH, 34 * len(rows) + 8)
    left = max(110, 10 + 8 * max(len(label) for label, *_ in rows))
    room = WIDTH - left - 130
    scale = room / max(high for _, _, _, high, _ in rows)
    for i, (label, value, low, high, shown) in enumerate(rows):
        y = 6 + 34 * i
        drawing.text(left - 10, y + 12, label, anchor="end")
        drawing.rect(left, y, value * scale, 24, "a")
        middle = y + 12
        drawing.line([(left + low * scale, middle), (left + high * scale, middle)], "whisker")
        for end in (low, high):
            x = left + end * scale
            drawing.line([(x, middle - 5), (x, middle + 5)], "whisker")
        drawing.text(left + high * scale + 10, middle, shown, anchor="start")
    return drawing
