"""Figures of the pages on the engine."""

from llm_numba.bench.drawing import WIDTH, Drawing


def request_states() -> Drawing:
    """Draw what becomes of a request, from its arrival to its last token."""
    drawing = Drawing(WIDTH, 230)
    boxes = {
        "waits": (96, "no blocks"),
        "is read": (250, "pieces of its prompt"),
        "decodes": (404, "a token a step"),
        "is done": (558, "blocks given back"),
    }
    for state, (x, note) in boxes.items():
        drawing.box(x - 56, 80, 112, 48, [state, note], "soft", text="small")
    for x, words in ((40, "new"), (194, "admitted"), (348, "prompt ends"), (502, "last token")):
        drawing.arrow([(x - 42, 104), (x, 104)])
        drawing.text(x - 22, 66, words, "dim small")
    # Back to the queue, from both states that hold blocks.
    drawing.arrow([(404, 80), (404, 24), (96, 24), (96, 80)], "a")
    drawing.line([(250, 80), (250, 24)], "a")
    drawing.text(250, 12, "pre-empted: gives its blocks back, waits at the head", "small")
    drawing.arrow([(96, 128), (96, 190), (558, 190), (558, 128)], "b")
    for x in (250, 404):
        drawing.line([(x, 128), (x, 190)], "b")
    drawing.text(328, 208, "aborted, or ended by a fault", "small")
    return drawing


def pipeline_of_steps() -> Drawing:
    """Draw host and device over time, with the tokens of a step read during the one behind it."""
    drawing = Drawing(WIDTH, 300)

    def host(x: float, y: float, words: str, width: float, style: str) -> None:
        drawing.box(x, y, width, 30, words, style, text="small", opacity=0.3)

    drawing.text(8, 16, "depth 0: one after the other", "strong", anchor="start")
    for row, name in enumerate(("host", "GPU")):
        for y in (36 + 40 * row, 176 + 40 * row):
            drawing.text(40, y + 15, name, "dim small", anchor="end")
    for i in range(3):
        x = 52 + 190 * i
        host(x, 36, f"fill {i + 1}", 44, "a")
        drawing.box(x + 46, 76, 96, 30, f"step {i + 1}", "soft", text="small")
        host(x + 144, 36, f"read {i + 1}", 44, "b")
    drawing.text(8, 156, "depth 1: a step ahead", "strong", anchor="start")
    host(52, 176, "fill 1", 44, "a")
    for i in range(5):
        x = 98 + 98 * i
        drawing.box(x, 216, 96, 30, f"step {i + 1}", "soft", text="small")
        if i < 4:
            host(x + (2 if i == 0 else 46), 176, f"fill {i + 2}", 44, "a")
        if i:
            host(x, 176, f"read {i}", 44, "b")
    drawing.text(
        WIDTH / 2, 276, "fill: schedule and submit; read: take the tokens and tell", "dim small"
    )
    return drawing
