"""Figures of the ladders' pages and of the first hour."""

from llm_numba.bench.drawing import WIDTH, Drawing


def butterfly() -> Drawing:
    """Draw three exchanges among eight lanes, with the values that they hold."""
    lanes, left, pitch, rise = 8, 60, 74, 62
    values = [[1 << lane] for lane in range(lanes)]
    drawing = Drawing(WIDTH, 4 * rise - 6)
    for level, distance in enumerate((None, 4, 2, 1)):
        y = 8 + rise * level
        if distance is not None:
            held = [sorted(values[lane] + values[lane ^ distance]) for lane in range(lanes)]
            for lane in range(lanes):
                for source in (lane, lane ^ distance):
                    style = "a" if source != lane else "stroke"
                    drawing.line([(left + pitch * source + 26, y - rise + 28),
                                  (left + pitch * lane + 26, y)], style)  # fmt: skip
            values = held
            drawing.text(left - 12, y + 14, f"xor {distance}", "dim small", anchor="end")
        for lane in range(lanes):
            said = f"t{lane}" if distance is None else f"{len(values[lane])} of {lanes}"
            drawing.box(left + pitch * lane, y, 52, 28, said, "soft", text="mono small")
    return drawing


def fusion() -> Drawing:
    """Draw what three kernels and one read and write."""
    drawing = Drawing(WIDTH, 236)
    kernels = ("add", "norm", "activation")
    drawing.text(14, 12, "one after the other", "strong", anchor="start")
    drawing.text(14, 138, "fused", "strong", anchor="start")
    for i, name in enumerate(kernels):
        x = 60 + 190 * i
        drawing.box(x, 28, 130, 32, name, "a", opacity=0.22)
        drawing.box(x + 14, 154, 130, 32, name, "a", opacity=0.22)
        if i:
            drawing.arrow([(x - 46, 170), (x + 14, 170)])
            drawing.text(x - 16, 160, "register", "dim small")
    traffic = ((("x", "r"), ("t",)), (("t", "t", "t"), ("n",)), (("n",), ("y",)))
    for i, (read, written) in enumerate(traffic):
        _memory(drawing, 60 + 190 * i, 60, read, written)
    _memory(drawing, 74, 186, ("x", "r"), ("t",))
    _memory(drawing, 454, 186, (), ("y",))
    return drawing


def _memory(drawing: Drawing, x: float, y: float, read: tuple, written: tuple) -> None:
    """Draw arrows from memory below into a kernel, and from it."""
    for place, name in enumerate(read):
        at = x + 14 + 22 * place
        drawing.arrow([(at, y + 34), (at, y + 2)])
        drawing.text(at, y + 43, name, "mono small")
    for place, name in enumerate(written):
        at = x + 116 - 22 * place
        drawing.arrow([(at, y), (at, y + 34)], "b")
        drawing.text(at, y + 43, name, "mono small")


def grid_stride() -> Drawing:
    """Draw which elements each thread of a grid of 8 takes."""
    threads, rounds, cell, left = 8, 3, 22, 14
    drawing = Drawing(WIDTH, 96)
    drawing.text(left, 12, f"elements, {threads} threads in the grid", "dim small", anchor="start")
    for i in range(threads * rounds + 3):
        thread = i % threads
        drawing.box(left + cell * i, 26, cell - 2, 26, str(i), "a" if thread == 2 else "soft",
                    text="small", opacity=0.35 if thread == 2 else 1)  # fmt: skip
        drawing.text(left + cell * i + 10, 66, f"t{thread}", "dim small")
    drawing.text(left, 88, "Thread 2 takes elements 2, 10, 18, ...", "dim small", anchor="start")
    return drawing
