"""Figures of several ranks."""

from figures import example
from llm_numba.bench.drawing import WIDTH, Drawing

_RANKS = 2


def layer_on_two_ranks() -> Drawing:
    """Draw which rows and columns of a layer of the bundled model each of two ranks has."""
    config = example.model().config
    E, F, D = config.hidden_size, config.intermediate_size // _RANKS, config.head_dim
    H, G = config.num_heads // _RANKS, config.num_kv_heads // _RANKS
    steps = (
        (f"q, k, v: {(H + 2 * G) * D} of {_RANKS * (H + 2 * G) * D} rows", True),
        (f"attention: {H} heads, {G} KV heads, own cache", True),
        (f"output product: {H * D} of {_RANKS * H * D} columns", True),
        (f"all-reduce: add up [N, {E}]", False),
        (f"gate and up: {F} of {_RANKS * F} rows of each", True),
        (f"down: {F} of {_RANKS * F} columns", True),
        (f"all-reduce: add up [N, {E}]", False),
    )
    row, width = 44, 290
    drawing = Drawing(WIDTH, row * (len(steps) + 1) + 40)
    for rank in range(_RANKS):
        x = 12 + rank * (width + 36)
        drawing.text(x + width / 2, 12, f"rank {rank}", "strong")
        drawing.box(x, 26, width, 30, f"residual stream [N, {E}], all of it", "soft", text="small")
    for i, (words, apart) in enumerate(steps):
        y = 26 + row * (i + 1)
        if apart:
            for rank in range(_RANKS):
                x = 12 + rank * (width + 36)
                drawing.arrow([(x + width / 2, y - 14), (x + width / 2, y)])
                drawing.box(x, y, width, 30, words, "ab"[rank], text="small", opacity=0.25)
        else:
            for rank in range(_RANKS):
                x = 12 + rank * (width + 36) + width / 2
                drawing.arrow([(x, y - 14), (x, y)])
            drawing.box(12, y, 2 * width + 36, 30, words, "c", text="strong small", opacity=0.3)
    return drawing


def fetched_and_pushed() -> Drawing:
    """Draw the trips over the link of a sum that is fetched, and of one that is pushed."""
    left, top, apart, trip = 190, 24, 64, 120
    sums = (
        ("fetched", ("flag", "request", "numbers")),
        ("pushed", ("numbers, each with its call's",)),
    )
    drawing = Drawing(WIDTH, 2 * (apart + 60))
    for i, (name, trips) in enumerate(sums):
        y = top + i * (apart + 60)
        drawing.text(10, y + apart / 2, name, "strong", anchor="start")
        for rank in range(_RANKS):
            drawing.text(left - 12, y + rank * apart, f"rank {rank}", "small", anchor="end")
            drawing.line([(left, y + rank * apart), (WIDTH - 10, y + rank * apart)])
        for k, words in enumerate(trips):
            x, there = left + 20 + k * trip, k % 2 == 0  # from rank 0 to rank 1, or back
            ends = (y, y + apart) if there else (y + apart, y)
            drawing.arrow([(x, ends[0]), (x + trip, ends[1])])
            drawing.text(x + trip / 2 + 12, y + (14 if there else apart - 12), words, "small",
                         anchor="start")  # fmt: skip
        x = left + 20 + len(trips) * trip
        drawing.box(x, y + apart - 13, 70, 26, "adds", "ab"[i], text="small", opacity=0.6)
    return drawing
