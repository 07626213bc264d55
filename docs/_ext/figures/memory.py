"""Figures of the page on memory: what a model takes of cards."""

import ml_dtypes
import numpy as np

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.engine.memory import MemoryOptions
from llm_numba.models import load_config, resolve_model
from llm_numba.planner import find_gpu
from llm_numba.planner.memory import RankMemory, rank_memory
from llm_numba.planner.split import cut

# A model, its split, a card; each with eight sequences of 8,192 tokens.
CASES = (
    ("8B, one RTX 4090", "llama-3-8b", 1, "rtx-4090"),
    ("8B, one H100", "llama-3-8b", 1, "h100"),
    ("70B, one H100", "llama-3-70b", 1, "h100"),
    ("70B, each of 2 H100", "llama-3-70b", 2, "h100"),
    ("70B, each of 4 H100", "llama-3-70b", 4, "h100"),
)
OPTIONS = MemoryOptions(max_model_len=8192, max_num_seqs=8)
_PARTS = (("weights", "a"), ("KV cache", "b"), ("all else", "c"))


def taken(model: str, tp: int, card: str) -> RankMemory:
    """Return where the memory of a rank's card goes, whether or not it fits."""
    split = cut(load_config(resolve_model(f"random:{model}")), tp, 1)
    dtype = np.dtype(ml_dtypes.bfloat16)
    return rank_memory(split, split.rank(0, 0), dtype, OPTIONS, find_gpu(card).memory_bytes)


def cards() -> Drawing:
    """Draw what each case takes beside what a card lets it take."""
    row, left, room = 46, 150, WIDTH - 150 - 90
    found = [(title, taken(model, tp, card)) for title, model, tp, card in CASES]
    scale = room / max(each.taken for _, each in found)
    drawing = Drawing(WIDTH, row * len(found) + 44)
    for i, (title, each) in enumerate(found):
        y, x = 8 + row * i, float(left)
        drawing.text(left - 10, y + 13, title, "small", anchor="end")
        sizes = (each.weights, each.kv, each.taken - each.weights - each.kv)
        for (_, style), num_bytes in zip(_PARTS, sizes, strict=True):
            width = num_bytes * scale
            drawing.rect(x, y, width, 26, style, opacity=0.55, radius=0)
            x += width
        edge = left + each.limit * scale
        drawing.line([(edge, y - 5), (edge, y + 31)], "whisker")
        said = "fits" if each.fits else "does not fit"
        drawing.text(max(x, edge) + 8, y + 6, f"{each.taken / 2**30:.1f} GiB", "small",
                     anchor="start")  # fmt: skip
        drawing.text(max(x, edge) + 8, y + 21, said, "small dim", anchor="start")
    x, y = float(left), row * len(found) + 22
    for words, style in (*_PARTS, ("|  what the engine may take", "")):
        if style:
            drawing.rect(x, y - 7, 14, 14, style, opacity=0.55, radius=1)
        drawing.text(x + 20, y, words, "small", anchor="start")
        x += 100
    return drawing
