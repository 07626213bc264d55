"""Figures of the architecture page and of the walkthrough's first page."""

from itertools import pairwise

from drawing import Drawing

FLOORS = [
    ("6", ["cli"], "commands"),
    ("5", ["planner"], "many GPUs, on paper"),
    ("5", ["bench", "train"], "measurements; the bundled model's workshop"),
    ("5", ["microscope"], "what a kernel costs, told and drawn"),
    ("5", ["engine"], "requests in, tokens out"),
    ("4", ["models"], "config, weights, tokenizer, Llama and GPT-2"),
    ("3", ["kvcache", "parallel"], "blocks, block tables; several ranks"),
    ("2", ["ops"], "one name per operation"),
    ("1", ["kernels", "reference"], "twins: on a GPU or simulated; in NumPy"),
    ("0", ["runtime", "simulator", "errors"], "arrays, launches; kernels on a CPU"),
]


def floors() -> Drawing:
    """Draw the house, top floor first."""
    drawing = Drawing(640, 44 * len(FLOORS) + 10)
    for i, (number, packages, purpose) in enumerate(FLOORS):
        y = 4 + 44 * i
        drawing.text(14, y + 18, number, "dim")
        width = 300 / len(packages)
        for j, package in enumerate(packages):
            drawing.box(34 + j * width, y, width - 6, 36, package, "soft", text="mono")
        drawing.text(352, y + 18, purpose, "dim", anchor="start")
    drawing.arrow([(630, 14), (630, 44 * len(FLOORS) - 10)])
    drawing.text(616, 44 * 6 + 22, "imports", "dim small", turn=90)
    return drawing


def pipeline() -> Drawing:
    """Draw the way from text to text."""
    drawing = Drawing(640, 420)
    left, right, width = 20, 350, 270

    def step(x: float, y: float, words: str, style: str = "soft") -> None:
        drawing.box(x, y, width, 30, words, style)

    step(left, 10, "text  →  token ids")
    step(left, 60, "embedding: a row of E numbers a token")
    drawing.arrow([(155, 40), (155, 60)])
    drawing.rect(left - 10, 104, width + 20, 264, "dashed")
    drawing.text(left + 4, 356, "L times", "dim", anchor="start")
    blocks = [
        [(116, "RMSNorm"), (154, "q, k, v"), (192, "RoPE, KV cache"),
         (230, "attention, output product")],
        [(278, "RMSNorm"), (316, "MLP: gate, up, down")],
    ]  # fmt: skip
    # The residual stream passes by both blocks; each reads it, and adds to it.
    drawing.arrow([(155, 90), (155, 98), (262, 98), (262, 396), (485, 396), (485, 372)], "a")
    for block in blocks:
        for y, words in block:
            drawing.box(left + 18, y, 200, 26, words, "soft")
        for upper, lower in pairwise(block):
            drawing.arrow([(138, upper[0] + 26), (138, lower[0])])
        drawing.arrow([(262, block[0][0] + 13), (238, block[0][0] + 13)], "a")
        drawing.arrow([(238, block[-1][0] + 13), (262, block[-1][0] + 13)], "a")
        drawing.text(272, block[-1][0] + 13, "+", "a")
    drawing.text(370, 408, "residual stream", "a small")
    step(right, 340, "RMSNorm")
    step(right, 280, "LM head: a score for each of V tokens")
    step(right, 220, "sampler: penalties, temperature, top-p")
    step(right, 160, "one token id")
    step(right, 100, "text, as soon as it is certain")
    for y in (340, 280, 220, 160):
        drawing.arrow([(485, y), (485, y - 30)])
    drawing.arrow([(485, 160), (485, 145), (330, 145), (330, 75), (290, 75)])
    drawing.text(414, 60, "and again, for the next token", "dim small")
    return drawing
