"""A profile as a picture: one layer's kernels in time, and all of a step by what it is."""

from html import escape

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm_numba.bench.profile import Operation, Profile
from llm_numba.bench.profile_report import Row, rows_of
from llm_numba.microscope.drawing import BAD, DIM, GOOD, LINE, TEXT, style, svg_of

# Lengths in inches.
_WIDTH, _ROW, _EDGE, _AXIS, _BAND = 7.6, 0.27, 0.42, 0.5, 0.34
_LABELS, _GAP, _FIGURES = 1.75, 0.3, 1.25
_SHADES = (1.0, 0.65, 0.9, 0.65, 0.4, 0.2)  # of the parts of a step


def draw(profile: Profile, bytes_per_second: float, *, themed: bool = False) -> str:
    """Draw a profile.

    Above, the step by its parts. Below, a row for each operation: at the left the layer in the
    middle of the model, kernel by kernel; at the right the time of all layers, and how much of it
    the operation's bytes take at the memory's own speed.

    Parameters
    ----------
    profile : Profile
    bytes_per_second : float
        The memory's speed, as a copy reaches it.
    themed : bool
        As of :func:`llm_numba.microscope.draw`.

    Returns
    -------
    str
        An SVG element with a title, and :func:`describe` for those who cannot see it.
    """
    with style():
        svg = svg_of(_figure(profile, bytes_per_second, card=not themed), themed=themed)
    head, body = svg.split(">", 1)
    label = escape(describe(profile, bytes_per_second))
    return (
        f'{head} role="img" aria-label="{label}"><title>{escape(title_of(profile))}</title>{body}'
    )


def title_of(profile: Profile) -> str:
    """Say which step it is."""
    shape = profile.shape
    if profile.phase == "decode":
        return f"decode: one token each of {shape.batch} x {shape.context} tokens of context"
    return f"prefill: {shape.batch} x {shape.new_tokens} tokens of a prompt"


def describe(profile: Profile, bytes_per_second: float) -> str:
    """Tell in words what the picture shows.

    Parameters
    ----------
    profile : Profile
    bytes_per_second : float
        As of :func:`draw`.
    """
    parts = profile.parts(bytes_per_second)
    whole = sum(parts.values())
    shares = ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in parts.items())
    rows = sorted(rows_of(profile), key=lambda row: -row.seconds)
    longest = ", ".join(f"{row.label} {duration(row.seconds)}" for row in rows[:3])
    return f"{title_of(profile)}, {duration(whole)}: {shares}. Longest: {longest}."


def duration(seconds: float) -> str:
    """Return a time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e6 * seconds:.2f} µs"


def _figure(profile: Profile, bytes_per_second: float, *, card: bool) -> Figure:
    rows = rows_of(profile)
    below = _EDGE + _BAND + _AXIS
    height = below + _ROW * len(rows) + _AXIS
    figure = Figure((_WIDTH, height), facecolor="white" if card else "none")

    def axes(x: float, y: float, width: float, tall: float) -> Axes:
        """Place axes by inches from the upper left corner."""
        return figure.add_axes(
            (x / _WIDTH, 1 - (y + tall) / height, width / _WIDTH, tall / height)
        )  # fmt: skip

    figure.text(
        0.1 / _WIDTH, 1 - 0.2 / height, title_of(profile), size=11, weight="bold", va="center"
    )
    _draw_parts(axes(0.1, _EDGE, _WIDTH - 0.2, _BAND), profile.parts(bytes_per_second))
    half = (_WIDTH - _LABELS - _GAP - _FIGURES) / 2
    tall = _ROW * len(rows)
    layer = axes(_LABELS, below, half, tall)
    _draw_layer(layer, profile, [row.label for row in rows])
    totals = axes(_LABELS + half + _GAP, below, half, tall)
    _draw_totals(totals, rows, bytes_per_second)
    for each in (layer, totals):
        each.set(ylim=(len(rows) - 0.5, -0.5))
        each.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_parts(axes: Axes, parts: dict[str, float]) -> None:
    """Draw a bar of the step's parts; one that is hidden by others (negative) has no width."""
    shown = {name: max(part, 0.0) for name, part in parts.items()}
    whole = sum(shown.values())
    left = 0.0
    for (name, part), shade in zip(shown.items(), _SHADES, strict=False):
        colour = GOOD if name in ("weights", "kv") else BAD
        axes.barh(0, part, 1, left=left, color=colour, alpha=shade, linewidth=0)
        if part > 0.07 * whole:
            axes.text(left + part / 2, 0, f"{100 * part / whole:.0f} %", ha="center", va="center")
        left += part
    words = "   ".join(f"{name} {duration(part)}" for name, part in parts.items())
    axes.set(xlim=(0, whole), ylim=(-0.5, 0.5), xticks=[], yticks=[], xlabel=words)
    axes.spines[:].set_visible(False)


def _draw_layer(axes: Axes, profile: Profile, labels: list[str]) -> None:
    shown = _middle_layer(profile.operations)
    start = shown[0].spans[0][0]
    for each in shown:
        for begin, end in each.spans:
            left, long = 1e6 * (begin - start), 1e6 * (end - begin)
            axes.barh(labels.index(each.label), long, 0.7, left=left, color=GOOD, linewidth=0)
    layer = shown[0].layer
    axes.set_xlabel("µs" if layer is None else f"µs, layer {layer}")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params("y", length=0, labelcolor=TEXT)
    axes.grid(axis="x", color=LINE, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)


def _middle_layer(operations: list[Operation]) -> list[Operation]:
    layers = [each.layer for each in operations if each.layer is not None]
    chosen = max(layers) // 2 if layers else None
    return [each for each in operations if chosen is None or each.layer == chosen]


def _draw_totals(axes: Axes, rows: list[Row], bytes_per_second: float) -> None:
    for place, row in enumerate(rows):
        ideal = min(row.traffic.num_bytes / bytes_per_second, row.seconds)
        axes.barh(place, ideal, 0.7, color=GOOD, linewidth=0)
        axes.barh(place, row.seconds - ideal, 0.7, left=ideal, color=BAD, linewidth=0)
        share = 100 * row.bytes_per_second / bytes_per_second
        axes.annotate(
            f"{duration(row.seconds)}, {share:.0f} %", (row.seconds, place), (4, 0),
            textcoords="offset points", va="center", color=TEXT,
        )  # fmt: skip
    axes.set(xlim=(0, max(row.seconds for row in rows)), xticks=[], yticks=[])
    axes.set_xlabel("all layers: time, of it at the copy's speed, %", color=DIM)
    axes.spines["bottom"].set_visible(False)
