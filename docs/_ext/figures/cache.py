"""Figures of the KV cache: who shares blocks, and how they are found again."""

from llm_numba.bench.drawing import WIDTH, Drawing

_STORY = ["11 12 13 14", "15 16 17 18"]
_PITCH = 92  # from a block to the next


def prefixes() -> Drawing:
    """Draw the listing's tables, the six blocks, and the chain of keys that finds three of them."""
    drawing = Drawing(WIDTH, 316)
    left = 66
    contents = [*_STORY, "1 2", "3 4 5 6", "", ""]
    styles = ["c", "c", "a", "b", "line", "line"]
    for name, style, x, blocks in (
        ("first", "a", 130, [0, 1, 2]),
        ("second", "b", 330, [0, 1, 3]),
    ):
        drawing.text(x - 8, 30, name, "strong", anchor="end")
        for i, block in enumerate(blocks):
            drawing.box(x + 44 * i, 14, 40, 30, str(block), style, opacity=0.25)
            drawing.arrow([(x + 20 + 44 * i, 44), (left + 40 + _PITCH * block, 92)])
    for block, (words, style) in enumerate(zip(contents, styles, strict=True)):
        x = left + _PITCH * block
        drawing.box(x, 94, 80, 34, words, style, text="small", opacity=0.3)
        drawing.text(x + 40, 142, f"block {block}", "dim small")
    drawing.text(8, 224, "keys", "strong", anchor="start")
    drawing.text(left - 6, 260, "the model", "small", anchor="middle")
    chain = ((0, "key 0"), (1, "key 1"), (3, "key 2"))
    previous = None
    for block, name in chain:
        x = left + _PITCH * block
        drawing.box(x + 10, 208, 60, 32, name, "soft")
        drawing.arrow([(x + 40, 208), (x + 40, 150)])
        if previous is None:
            drawing.arrow([(left - 6, 250), (left - 6, 224), (x + 8, 224)])
        else:
            drawing.arrow([(previous + 70, 224), (x + 8, 224)])
        previous = x
    drawing.text(8, 296, "taken next:", "strong", anchor="start")
    for i, (block, style) in enumerate(((2, "a"), (4, "line"), (5, "line"))):
        drawing.box(110 + 44 * i, 282, 40, 28, str(block), style, opacity=0.3)
    drawing.text(270, 296, "then", "dim small")
    for i, (block, style) in enumerate(((3, "b"), (1, "c"), (0, "c"))):
        drawing.box(300 + 44 * i, 282, 40, 28, str(block), style, opacity=0.3)
    return drawing
