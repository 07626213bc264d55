"""Figures of the first page, of the architecture page and of the walkthrough's first page."""

from itertools import pairwise

from llm_numba.bench.drawing import WIDTH, Drawing

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


# The map, floor by floor. A room is what is written on its door, the module behind it, and which of
# the ten steps of a request happen there.
_OPERATIONS = ("embedding", "layernorm", "linear", "rope", "attention", "kv", "sampling")
_MAP = (
    ("6", "cli", [("generate, chat, microscope, plan, bench, doctor", "page:command-line", "")]),
    ("5", "engine", [
        ("llm", "engine.llm", ""), ("core", "engine.core", "2"), ("request", "engine.request", "3"),
        ("scheduler", "engine.scheduler", "4"), ("runner", "engine.runner", "5"),
        ("sampler", "engine.sampler", "7"), ("outputs", "engine.outputs", "10"),
    ]),
    ("", "beside it", [
        ("planner", "planner.plan", ""), ("bench", "bench.engine", ""),
        ("microscope", "microscope.views", ""),
    ]),
    ("4", "models", [
        ("tokenizer", "models.tokenizer", "1, 8"), ("config", "models.config", ""),
        ("weights", "models.weights", ""), ("llama", "models.llama", "6"),
        ("gpt2", "models.gpt2", ""),
    ]),
    ("3", "kvcache", [
        ("allocator", "kvcache.allocator", ""), ("block_table", "kvcache.block_table", ""),
        ("prefix_cache", "kvcache.prefix_cache", ""),
    ]),
    ("", "parallel", [
        ("mesh", "parallel.mesh", ""), ("communicator", "parallel.communicator", ""),
        ("partition", "parallel.partition", ""),
    ]),
    ("2", "ops", [("one name per operation", "ops", "")]),
    ("1", "kernels", [
        (name, f"kernels.{'attention_paged' if name == 'attention' else name}", "")
        for name in _OPERATIONS
    ]),
    ("", "reference", [(name, f"reference.{name}", "") for name in _OPERATIONS]),
    ("0", "runtime", [
        ("arrays", "runtime.arrays", ""), ("launch", "runtime.launch", ""),
        ("graphs", "runtime.graphs", ""),
    ]),
    ("", "simulator", [
        ("simulate", "simulator.simulate", ""), ("machine", "simulator.machine", ""),
        ("costs", "simulator.costs", ""),
    ]),
)  # fmt: skip


def rooms() -> Drawing:
    """Draw the house with a door to each room, and the steps of a request on the doors."""
    pitch, left, right = 38, 100, WIDTH - 4
    drawing = Drawing(WIDTH, pitch * len(_MAP) + 26)
    for i, (floor, package, doors) in enumerate(_MAP):
        y = 4 + pitch * i
        if floor and i:
            drawing.line([(4, y - 4), (right, y - 4)])
        drawing.text(10, y + 15, floor, "dim")
        drawing.text(24, y + 15, package, "strong small", anchor="start")
        width = (right - left) / len(doors)
        for j, (name, target, steps) in enumerate(doors):
            x = left + j * width
            full = target if target.startswith("page:") else f"llm_numba.{target}"
            with drawing.link(full, f"{package}: {name}"):
                drawing.box(x, y, width - 5, 30, name, "soft", text="mono small")
                if steps:
                    drawing.text(x + width - 9, y + 6, steps, "a small", anchor="end")
    below = pitch * len(_MAP) + 12
    drawing.text(
        left, below, "blue: the steps of a request below; each room opens its source",
        "dim small", anchor="start",
    )  # fmt: skip
    return drawing


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
