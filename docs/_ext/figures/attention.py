"""Figures of the attention page, and of the KV cache."""

import numpy as np

from figures import example
from llm_numba import ops
from llm_numba.bench.drawing import WIDTH, Drawing


def _weights() -> np.ndarray:
    """Return the attention weights of the running example, [L, H, S, S]."""
    return np.array([layer.weights for layer in example.trace()])


def chosen_head() -> tuple[int, int]:
    """Find the head whose last query looks most at the token after the earlier same token.

    The prompt ends in a token that occurred before; a head that finds what followed it there is
    called an induction head (Olsson et al., "In-context Learning and Induction Heads", 2022).
    """
    ids = [token_id for token_id, _ in example.tokens()]
    follower = ids.index(ids[-1]) + 1
    attention = _weights()[:, :, -1, follower]
    layer, head = np.unravel_index(attention.argmax(), attention.shape)
    return int(layer), int(head)


def causal_weights() -> Drawing:
    """Draw one head's weights over the running example: queries down, keys across."""
    layer, head = chosen_head()
    weights = _weights()[layer, head]
    texts = [text.replace(" ", "␣") for _, text in example.tokens()]
    cell, left, top = 27, 120, 92
    drawing = Drawing(WIDTH, top + cell * len(texts) + 34)
    drawing.text(left + cell * len(texts) / 2, 10, "keys", "dim")
    drawing.text(14, top + cell * len(texts) / 2, "queries", "dim", turn=-90)
    for i, text in enumerate(texts):
        middle = cell * i + cell / 2
        drawing.text(left + middle, top - 8, text, "mono", anchor="start", turn=-60)
        drawing.text(left - 8, top + middle, text, "mono", anchor="end")
        for j in range(i + 1):
            x, y, weight = left + cell * j, top + cell * i, weights[i, j]
            drawing.rect(x, y, cell - 2, cell - 2, "soft")
            drawing.rect(x, y, cell - 2, cell - 2, "a", opacity=min(0.999, float(weight)))
            if weight >= 0.1:
                style = "small on" if weight > 0.7 else "small"
                shown = f"{weight:.1f}".removeprefix("0")
                drawing.text(x + cell / 2 - 1, y + cell / 2 - 1, shown, style)
    drawing.text(
        left, top + cell * len(texts) + 18,
        f"layer {layer}, head {head}; each row sums to 1, weights from 0.1 up are written out",
        "dim small", anchor="start",
    )  # fmt: skip
    return drawing


def grouped_heads() -> Drawing:
    """Draw which query heads share a KV head in the bundled model."""
    config = example.model().config
    H, G = config.num_heads, config.num_kv_heads
    drawing = Drawing(WIDTH, 150)
    pitch = 540 / H
    for h in range(H):
        x, g = 90 + h * pitch, h // (H // G)
        drawing.box(x, 12, pitch - 10, 34, f"q{h}", "abcd"[g % 4], opacity=0.25)
        target = 90 + (g + 0.5) * (540 / G) - 5
        drawing.arrow([(x + (pitch - 10) / 2, 46), (target, 100)])
    for g in range(G):
        x = 90 + g * 540 / G
        drawing.box(x, 100, 540 / G - 10, 34, f"k{g}, v{g}", "abcd"[g % 4], opacity=0.25)
    drawing.text(40, 29, f"H = {H}", "dim")
    drawing.text(40, 117, f"G = {G}", "dim")
    return drawing


def rotation() -> Drawing:
    """Draw how far the first, a middle and the last pair turn over 16 positions."""
    config = example.model().config
    angles = ops.rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    drawing = Drawing(WIDTH, 230)
    for i, pair in enumerate((0, len(angles) // 4, len(angles) // 2)):
        cx, cy, radius = 115 + 205 * i, 112, 74
        circle = np.linspace(0, 2 * np.pi, 65)
        drawing.line([(cx + radius * np.cos(a), cy - radius * np.sin(a)) for a in circle])
        for position in range(8):
            angle = position * angles[pair]
            x, y = cx + radius * np.cos(angle), cy - radius * np.sin(angle)
            drawing.line([(cx, cy), (x, y)], "a")
            if angles[pair] > 0.1:
                place = radius + 12
                drawing.text(cx + place * np.cos(angle), cy - place * np.sin(angle),
                             str(position), "small")  # fmt: skip
        turn = 2 * np.pi / angles[pair]
        drawing.text(cx, 214, f"pair {pair}: a turn in {turn:,.1f} positions", "dim small")
    return drawing


def block_tables() -> Drawing:
    """Draw the block tables of the listing: two prompts, then a fork that copied its block."""
    drawing = Drawing(WIDTH, 210)
    owners = {0: "a", 1: "a", 2: "b", 3: "a", 4: "c"}
    positions = {0: range(4), 1: range(4, 8), 2: range(3), 3: range(8, 9), 4: range(4)}
    tables = (("first", "a", 70, [0, 1, 3]), ("second", "b", 236, [2]), ("sample", "c", 346, [4]))
    for name, style, x, blocks in tables:
        drawing.text(x, 16, name, "strong", anchor="start")
        for i, block in enumerate(blocks):
            drawing.box(x + 44 * i, 30, 40, 30, str(block), style, opacity=0.25)
            drawing.arrow([(x + 20 + 44 * i, 60), (91 + 68 * block, 128)])
    for block in range(8):
        x = 60 + 68 * block
        for slot in range(4):
            sx = x + 15 * slot
            if slot < len(positions.get(block, ())):
                drawing.rect(sx, 130, 15, 30, owners[block], opacity=0.35, radius=0)
                drawing.text(sx + 7.5, 145, str(positions[block][slot]), "small")
            drawing.rect(sx, 130, 15, 30, "line", radius=0)
        drawing.text(x + 30, 174, f"block {block}", "small")
        drawing.text(x + 30, 192, f"{4 * block} to {4 * block + 3}", "dim small")
    drawing.text(26, 192, "slots", "dim small")
    return drawing
