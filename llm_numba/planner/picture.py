"""A sweep as a picture: tokens a second of a user against those of a GPU."""

from collections.abc import Sequence
from io import StringIO
from itertools import cycle

from llm_numba.planner.sweep import Point, frontier

_MARKS = "osD^v<>PX*"


def draw(points: Sequence[Point], title: str) -> str:
    """Draw a sweep.

    Parameters
    ----------
    points : sequence of Point
    title : str

    Returns
    -------
    str
        An SVG document: a dot for each plan, coloured by its number of GPUs, and a line through
        those that no other is better than.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "llm_numba", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        sizes = sorted({point.num_gpus for point in points})
        colours = mpl.colormaps["viridis"].resampled(max(2, len(sizes)))
        for number, (size, mark) in enumerate(zip(sizes, cycle(_MARKS), strict=False)):
            of_size = [point for point in points if point.num_gpus == size]
            axes.scatter(
                [point.per_user for point in of_size],
                [point.per_gpu for point in of_size],
                s=14, marker=mark, color=colours(number), label=str(size), alpha=0.7,
            )  # fmt: skip
        best = frontier(points)
        along = ([point.per_user for point in best], [point.per_gpu for point in best])
        axes.plot(*along, color="black", linewidth=1, label="best")
        axes.set(xscale="log", yscale="log", title=title)
        axes.set(xlabel="tokens/s of a user", ylabel="tokens/s of a GPU")
        axes.grid(visible=True, which="both", alpha=0.2)
        axes.legend(title="GPUs", fontsize="small", ncols=2)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
