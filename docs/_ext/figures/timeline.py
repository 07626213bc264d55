"""Figures of time: what the host does while the GPU works."""

from llm_numba.bench.drawing import WIDTH, Drawing

_HOST, _DEVICE = 24, 110
_BEGIN, _STEP = 138, 168  # of the GPU's first step, and from one to the next


def step_ahead() -> Drawing:
    """Draw three steps: the host submits one and reads the one before, while the GPU computes."""
    drawing = Drawing(WIDTH, 190)
    drawing.text(8, _HOST + 16, "host", "strong", anchor="start")
    drawing.text(8, _DEVICE + 16, "GPU", "strong", anchor="start")
    for step, style in enumerate("aba"):
        device = _BEGIN + _STEP * step
        # The first is prepared alone, the second at once behind it, the others after a read.
        submit = (58, 142, device - _STEP + 64)[step]
        drawing.box(device, _DEVICE, _STEP - 4, 32, f"step {step}", style, opacity=0.25)
        drawing.box(submit, _HOST, 68, 32, f"submit {step}", style, text="small", opacity=0.25)
        drawing.arrow([(submit + 66, _HOST + 32), (device + 3, _DEVICE)])
        if step == 2:
            continue
        end = device + _STEP
        drawing.box(end + 6, _HOST, 52, 32, f"read {step}", style, text="small", opacity=0.25)
        drawing.arrow([(end - 8, _DEVICE), (end + 10, _HOST + 32)])
        drawing.line([(end - 26, _DEVICE + 32), (end - 26, 160), (end + 20, 160)])
        drawing.arrow([(end + 20, 160), (end + 20, _DEVICE + 34)])
        drawing.text(end - 3, 176, "its tokens", "dim small")
    return drawing


_LEFT, _LAUNCH, _WAIT, _SENT = 100, 26, 16, 64  # pixels of the host's parts of a piece


def pieces() -> Drawing:
    """Draw the same step as a whole graph, and cut in three where the host exchanges arrays."""
    drawing = Drawing(WIDTH, 214)
    kernels, add = (96, 120, 96), 34
    for y, words in ((18, "host"), (56, "GPU"), (134, "host"), (172, "GPU")):
        drawing.text(_LEFT - 12, y + 15, words, "strong", anchor="end")
    drawing.box(_LEFT, 18, _LAUNCH, 30, "0", "c", text="small", opacity=0.25)
    x = _LEFT + _LAUNCH
    drawing.arrow([(x - 4, 48), (x + 2, 56)])
    for piece, width in enumerate(kernels):
        drawing.box(x, 56, width - 2, 30, "kernels", "a", text="small", opacity=0.25)
        x += width
        if piece < 2:
            drawing.box(x, 56, add - 2, 30, "sum", "b", text="small", opacity=0.25)
            x += add
    x = _LEFT
    for piece, width in enumerate(kernels):
        drawing.box(x, 134, _LAUNCH, 30, f"{piece}", "c", text="small", opacity=0.25)
        x += _LAUNCH
        drawing.arrow([(x - 4, 164), (x + 2, 172)])
        words = "kernels" if piece == 0 else "add, kernels"
        drawing.box(x, 172, width - 8, 30, words, "a", text="small", opacity=0.25)
        x += width - 8
        if piece < 2:
            drawing.arrow([(x - 2, 172), (x + _WAIT, 164)])
            x += _WAIT
            drawing.box(x, 134, _SENT - 2, 30, "exchange", "b", text="small", opacity=0.25)
            x += _SENT
    return drawing
