"""Figures of the pages on the MLP, the sampler, the batch and the stream."""

import numpy as np

from figures import example
from llm_numba import ops
from llm_numba.bench.drawing import WIDTH, Drawing


def activations() -> Drawing:
    """Draw SiLU, GELU and its tanh form, which lies on it."""
    drawing = Drawing(WIDTH, 270)
    x0, y0, sx, sy = 320.0, 196.0, 55.0, 34.0
    drawing.line([(30, y0), (610, y0)])
    drawing.line([(x0, 16), (x0, 232)])
    for x in range(-5, 6):
        if x:
            drawing.line([(x0 + sx * x, y0 - 3), (x0 + sx * x, y0 + 3)])
            drawing.text(x0 + sx * x, y0 + 40, str(x), "dim small")
    for y in range(1, 6):
        drawing.text(x0 - 10, y0 - sy * y, str(y), "dim small")
    grid = np.linspace(-5, 5, 161)
    for style, function in (("a", ops.silu), ("b", ops.gelu)):
        points = [(x0 + sx * x, y0 - sy * y) for x, y in zip(grid, function(grid), strict=True)]
        drawing.line(points, style)
    drawing.text(60, 40, "SiLU: Llama, Mistral, Qwen", "a", anchor="start")
    drawing.text(60, 62, "GELU: GPT-2", "b", anchor="start")
    return drawing


def distributions() -> Drawing:
    """Draw the likeliest next tokens of the listing's prompt at three temperatures."""
    llm = example.llm()
    ids = llm.tokenizer.encode("Once upon a time there was a")
    logits = llm.logits(ids)[-1:]
    settings = {"temperature 0.5": (0.5, 1.0), "1": (1.0, 1.0), "2": (2.0, 1.0),
                "1, top-p 0.9": (1.0, 0.9)}  # fmt: skip
    order = np.argsort(-logits[0], kind="stable")[:6]
    columns = [
        ops.sampling_probabilities(
            logits, np.array([temperature]), np.array([0]), np.array([top_p]), np.array([0.0])
        )[0, order]
        for temperature, top_p in settings.values()
    ]
    drawing = Drawing(WIDTH, 30 + 34 * len(order))
    pitch, scale = 134, 85 / max(probs.max() for probs in columns)
    for row, token in enumerate(order):
        text = llm.tokenizer.decode([int(token)]).replace(" ", "␣")
        drawing.text(95, 39 + 34 * row, text, "mono", anchor="end")
    for column, (name, probs) in enumerate(zip(settings, columns, strict=True)):
        left = 105 + column * pitch
        drawing.text(left, 12, name, "strong small", anchor="start")
        for row, probability in enumerate(probs):
            y, length = 28 + 34 * row, max(1.0, float(probability) * scale)
            drawing.rect(left, y, length, 22, "abcd"[column])
            shown = f"{probability:.3f}" if probability else "out"
            drawing.text(left + length + 5, y + 11, shown, "small dim", anchor="start")
    return drawing


def flattened_batch() -> Drawing:
    """Draw the two steps of the listing: two prompts, then one token of each."""
    drawing = Drawing(WIDTH, 300)
    tokenizer = example.llm().tokenizer
    prompts = ["Emma lost the red", "Jack had"]
    rows = [[tokenizer.decode([i], skip_special_tokens=False).replace(" ", "␣")
             for i in tokenizer.encode(prompt)] for prompt in prompts]  # fmt: skip
    flat = [(text, style) for words, style in zip(rows, "ab", strict=True) for text in words]
    pitch = 66
    drawing.text(8, 14, "step 1: both prompts, N = 8 tokens", "strong", anchor="start")
    positions = [p for words in rows for p in range(len(words))]
    slots = [0, 1, 2, 3, 4, 8, 9, 10]
    for i, (text, style) in enumerate(flat):
        x = 106 + pitch * i
        drawing.box(x, 28, pitch - 3, 28, text, style, text="mono small", opacity=0.25)
        drawing.text(x + pitch / 2, 72, str(positions[i]), "mono")
        drawing.text(x + pitch / 2, 94, str(slots[i]), "mono")
    for y, label in ((42, "token_ids"), (72, "positions"), (94, "slot_mapping")):
        drawing.text(98, y, label, "dim small", anchor="end")
    for start in (0, len(rows[0]), len(flat)):
        x = 106 + pitch * start - 1.5
        drawing.line([(x, 24), (x, 120)])
        drawing.text(x if start else x + 2, 130, str(start), "mono")
    drawing.text(98, 130, "query_starts", "dim small", anchor="end")

    drawing.text(8, 172, "step 2: one token of each, N = B = 2", "strong", anchor="start")
    for i, (style, position, slot) in enumerate((("a", 5, 5), ("b", 3, 11))):
        x = 106 + pitch * i
        drawing.box(x, 186, pitch - 3, 28, "next", style, text="mono small", opacity=0.25)
        drawing.text(x + pitch / 2, 230, str(position), "mono")
        drawing.text(x + pitch / 2, 252, str(slot), "mono")
    for y, label in ((200, "token_ids"), (230, "positions"), (252, "slot_mapping")):
        drawing.text(98, y, label, "dim small", anchor="end")
    drawing.box(300, 186, 150, 72, ["weights", "read once"], "soft")
    drawing.arrow([(242, 200), (300, 200)])
    drawing.box(490, 186, 130, 28, "a row of V scores", "a", opacity=0.25)
    drawing.box(490, 230, 130, 28, "a row of V scores", "b", opacity=0.25)
    drawing.arrow([(450, 200), (490, 200)])
    drawing.arrow([(450, 244), (490, 244)])
    return drawing


def held_back() -> Drawing:
    """Draw what the listing's stream shows after each token."""
    drawing = Drawing(WIDTH, 138)
    tokenizer = example.llm().tokenizer
    text = "Zoë has"
    ids = tokenizer.encode(text, add_special_tokens=False)
    from llm_numba.models import IncrementalDetokenizer

    stream = IncrementalDetokenizer(tokenizer, [])
    pitch = 500 / len(ids)
    for i, token_id in enumerate(ids):
        x = 110 + pitch * i
        raw = tokenizer.decode([token_id])
        alone = "half a character" if "�" in raw else f"“{raw}”"
        drawing.box(x, 14, pitch - 10, 34, str(token_id), "soft", text="mono")
        drawing.text(x + pitch / 2 - 5, 66, alone, "small dim")
        shown = stream.push(token_id)
        drawing.box(x, 84, pitch - 10, 34, f"“{shown}”" if shown else "nothing yet",
                    "a" if shown else "line", opacity=0.25 if shown else 1)  # fmt: skip
    for y, label in ((31, "token"), (66, "on its own"), (101, "shown")):
        drawing.text(98, y, label, "dim", anchor="end")
    return drawing
