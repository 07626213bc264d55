"""Figures of the residual stream: how large it is, and what it would say, block by block."""

import math

import numpy as np

from figures import example
from llm_numba import ops
from llm_numba.bench.drawing import WIDTH, Drawing


def _stream() -> list[tuple[str, np.ndarray]]:
    """Return the stream behind the embedding and behind each block, with the block's name."""
    layers = example.trace()
    found = [("embedding", layers[0].before)]
    for number, layer in enumerate(layers):
        found += [(f"attention {number}", layer.between), (f"MLP {number}", layer.after)]
    return found


def _root_mean_square(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(rows * rows, axis=1))


def sizes() -> Drawing:
    """Draw the root mean square of each token's row behind each block, and behind a norm."""
    stream = [(name, _root_mean_square(rows)) for name, rows in _stream()]
    left, top, height, room = 70, 20, 200, WIDTH - 70 - 20
    # In factors: the embedding's rows are far smaller than the last.
    octaves = [np.log2(sizes[1:]) for _, sizes in stream]
    low = math.floor(min(each.min() for each in octaves))
    high = math.ceil(max(each.max() for each in octaves))
    drawing = Drawing(WIDTH, top + height + 80)

    def place(i: int, octave: float) -> tuple[float, float]:
        share = (octave - low) / (high - low)
        return left + room * i / (len(stream) - 1), top + height * (1 - share)

    for octave in range(low, high + 1):
        y = place(0, octave)[1]
        drawing.line([(left, y), (left + room, y)])
        drawing.text(left - 8, y, f"{2.0**octave:.3g}", "dim small", anchor="end")
    for token in range(len(octaves[0])):
        drawing.line([place(i, each[token]) for i, each in enumerate(octaves)], "a")
    drawing.line([place(0, 0), place(len(stream) - 1, 0)], "b")
    drawing.text(left + 6, place(0, 0)[1] - 10, "what each block sees", "b small", anchor="start")
    for i, (name, _) in enumerate(stream):
        drawing.text(place(i, 0)[0], top + height + 10, name, "small", anchor="end", turn=-50)
    drawing.text(14, top + height / 2, "root mean square of a row", "dim small", turn=-90)
    return drawing


def lens() -> Drawing:
    """Draw which next token the stream of the last position would give behind each block."""
    model, tokenizer = example.model(), example.llm().tokenizer
    row, left = 25, 108
    stream = _stream()
    final = _probabilities(model, stream[-1][1])
    goal = int(final.argmax())
    drawing = Drawing(WIDTH, row * len(stream) + 34)
    goal_text = tokenizer.decode([goal]).replace(" ", "␣")
    drawing.text(left, 12, "likeliest next token", "dim small", anchor="start")
    drawing.text(left + 240, 12, f"how likely {goal_text} is", "dim small", anchor="start")
    for i, (name, rows) in enumerate(stream):
        y = 36 + row * i
        probabilities = _probabilities(model, rows)
        best = int(probabilities.argmax())
        text = tokenizer.decode([best]).replace(" ", "␣")
        style = "a" if best == goal else "soft"
        drawing.text(left - 10, y, name, "small", anchor="end")
        drawing.rect(left, y - 10, 225, 20, "line")
        drawing.rect(left, y - 10, max(1.0, 225 * float(probabilities[best])), 20, style,
                     opacity=0.35)  # fmt: skip
        drawing.text(left + 8, y, f"{text}  {probabilities[best]:.2f}", "mono", anchor="start")
        length = max(1.0, 225 * float(probabilities[goal]))
        drawing.rect(left + 240, y - 8, length, 16, "a")
        drawing.text(left + 246 + length, y, f"{probabilities[goal]:.3f}", "dim small",
                     anchor="start")  # fmt: skip
    return drawing


def _probabilities(model, rows: np.ndarray) -> np.ndarray:
    """Return what the last norm and the LM head make of the last position."""
    x = ops.rms_norm(rows[-1:], model.final_norm, model.config.norm_eps)
    return ops.softmax(ops.linear(x, model.lm_head), 1.0)[0]
