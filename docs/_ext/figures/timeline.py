"""Figures of time: what the host does while the GPU works."""

from drawing import WIDTH, Drawing

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
