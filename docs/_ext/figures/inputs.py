"""Figures of the pages on tokens and on the weights' file."""

from figures import example
from llm_numba.bench.drawing import Drawing


def prompt_tokens() -> Drawing:
    """Draw the prompt cut into tokens, with their ids."""
    tokens = example.tokens()
    rows, x, y = [], 6.0, 0
    for token_id, text in tokens:
        width = max(34.0, 8.2 * len(text) + 12)
        if x + width > 634:
            x, y = 6.0, y + 1
        rows.append((x, y, width, token_id, text))
        x += width + 4
    drawing = Drawing(640, 62 * (y + 1) + 4)
    for i, (x, y, width, token_id, text) in enumerate(rows):
        top = 4 + 62 * y
        drawing.rect(x, top, width, 28, "abcd"[i % 4], opacity=0.22)
        drawing.text(x + width / 2, top + 14, text.replace(" ", "␣"), "mono")
        drawing.text(x + width / 2, top + 42, str(token_id), "dim small")
    return drawing


def safetensors_layout() -> Drawing:
    """Draw the three parts of a safetensors file, with the bundled file's own sizes."""
    path = example.llm().model_dir / "model.safetensors"
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    data = path.stat().st_size - 8 - header
    drawing = Drawing(640, 118)
    for x, width, title, size, what in (
        (10, 110, "header length", "8 bytes", "little-endian"),
        (120, 220, "header", f"{header:,} bytes", "JSON: dtype, shape, offsets"),
        (340, 290, "data", f"{data:,} bytes", "one tensor after the other"),
    ):
        drawing.box(x, 10, width, 56, [title, size], "soft")
        drawing.text(x + width / 2, 82, what, "dim small")
    drawing.arrow([(270, 96), (270, 108), (400, 108), (400, 68)])
    return drawing
