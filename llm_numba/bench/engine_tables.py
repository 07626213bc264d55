"""What ``llm-numba bench engine`` wrote, as tables and curves."""

from collections.abc import Iterator
from typing import Any

from llm_numba.bench.drawing import WIDTH, Drawing
from llm_numba.bench.tables import Results, Table, figure, with_unit


def _points(results: Results) -> list[dict[str, Any]]:
    return [each for name, each in results.items() if name.startswith("decode/")]


def _name(point: dict[str, Any]) -> str:
    shape = point["shape"]
    return f"batch={shape['batch']}/context={shape['context']}"


def classic(results: Results) -> Table:
    """Make the table that is usual: one token, many tokens, memory, transfer.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    rows = []
    for batch, title in ((1, "a token, batch 1"), (32, "a step, batch 32")):
        points = [each for each in _points(results) if each["shape"]["batch"] == batch]
        point = next((each for each in points if each["shape"]["context"] == 512), None)
        if point is None:
            continue
        shape = point["shape"]
        shown = f"{title}, context 512: mean, median, 99th percentile"
        times = (shape["mean_ms"], point["median"], shape["p99_ms"])
        rows.append([shown, ", ".join(f"{each:.3g}" for each in times) + " ms"])
        rate = figure(shape["tokens_per_second"])
        rows.append([f"throughput, batch {batch}", f"{rate} tokens/s"])
        share = with_unit(results, f"transfer/{_name(point)}")
        rows.append([f"transfer utilisation, batch {batch}", share])
    for name, each in results.items():
        if name.startswith(("first_token/", "peer/", "memory/")):
            rows.append([each["what"], with_unit(results, name)])
    return Table(["measured", "figure"], rows)


def decode(results: Results) -> Table:
    """Make the table of all decode points, by context and batch.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    rows = []
    for point in sorted(_points(results), key=lambda each: _sizes(each["shape"])):
        shape = point["shape"]
        rows.append([
            f"{shape['batch']} x {shape['context']:,}",
            *(f"{each:.3g}" for each in (shape["mean_ms"], point["median"], shape["p99_ms"])),
            figure(shape["tokens_per_second"]),
            with_unit(results, f"transfer/{_name(point)}"),
            f"{point['n']}",
        ])  # fmt: skip
    headings = ["batch x context", "mean ms", "median", "p99", "tokens/s", "of the copy", "steps"]
    return Table(headings, rows)


def fusion(results: Results) -> Table:
    """Make the cumulative table: each row has what the one before has, and one thing more.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    found = [each for name, each in results.items() if name.startswith("fusion/")]
    batches = list(dict.fromkeys(each["shape"]["batch"] for each in found))
    headings = ["what runs"]
    for batch in batches:
        headings += [f"batch {batch}, ms", "saved by it"]
    rows: dict[str, list[str]] = {}
    for batch in batches:
        before = None
        for each in (each for each in found if each["shape"]["batch"] == batch):
            saved = "" if before is None else f"{100 * (1 - each['median'] / before):.1f} %"
            row = rows.setdefault(each["shape"]["what"], [])
            row += [f"{each['median']:.3g}", saved]
            before = each["median"]
    return Table(headings, [[what, *cells] for what, cells in rows.items()])


def serving(results: Results) -> Table:
    """Make the table of many requests at once.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    found = [each for name, each in results.items() if name.startswith("serving/")]
    return Table(
        ["measured", "figure"], [[e["what"], with_unit(results, e["name"])] for e in found]
    )


def persistent(results: Results) -> Table:
    """Make the table of the persistent kernel against the graph of kernels.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name.
    """
    found: dict[int, dict[str, float]] = {}
    for name, each in results.items():
        if name.startswith("persistent/"):
            ways = found.setdefault(each["shape"]["context"], {})
            ways[each["shape"]["way"]] = each["median"]
    rows = []
    for context, ways in sorted(found.items()):
        if len(ways) == 2:
            graph, kernel = ways["graph"], ways["kernel"]
            winner = "one kernel" if kernel < graph else "graph"
            share = f"{100 * abs(1 - kernel / graph):.1f} %"
            rows.append([f"{context:,}", f"{graph:.3g}", f"{kernel:.3g}", winner, share])
    headings = ["context", "graph of kernels, ms", "one kernel, ms", "who wins", "by"]
    return Table(headings, rows)


def compared(before: Results, after: Results) -> Table:
    """Make the table of two runs of one model, side by side: steps that decode, and first tokens.

    Parameters
    ----------
    before, after : mapping of str to dict
        Of two records, by name.
    """
    rows = []
    both = before | after
    for name in sorted(both, key=lambda each: _sizes(both[each]["shape"])):
        if name.startswith(("decode/", "first_token/")):
            times = [each[name]["median"] if name in each else None for each in (before, after)]
            told = ["-" if each is None else f"{each:.3g}" for each in times]
            gain = "" if None in times else f"{times[0] / times[1]:.2f}"
            rows.append([both[name]["what"], *told, gain])
    return Table(["median", "before, ms", "after, ms", "times as fast"], rows)


def _sizes(shape: dict[str, Any]) -> tuple[int, ...]:
    """Order prompts behind steps, and each by its size."""
    return shape.get("tokens", 0), shape.get("context", 0), shape.get("batch", 0)


def curve(points: list[dict[str, Any]], axis: str) -> Drawing:
    """Draw median milliseconds against batch or context, each twice as long as the one before.

    Parameters
    ----------
    points : list of dict
        Decode results along one axis.
    axis : {"batch", "context"}
    """
    left, top, height = 70, 34, 190
    picture = Drawing(WIDTH, top + height + 52)
    room = (WIDTH - left - 40) / max(len(points) - 1, 1)
    most = max(each["shape"]["p99_ms"] for each in points)

    def place(i: int, value: float) -> tuple[float, float]:
        return left + room * i, top + height * (1 - value / most)

    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        picture.line([(left, y), (WIDTH - 30, y)])
        picture.text(left - 8, y, figure(share * most), "dim", anchor="end")
    for i, each in enumerate(points):
        picture.text(left + room * i, top + height + 16, f"{each['shape'][axis]:,}")
        x, y = place(i, each["median"])
        picture.line([(x, y), place(i, each["shape"]["p99_ms"])], "whisker")
        picture.rect(x - 3, y - 3, 6, 6, "a")
    picture.line([place(i, each["median"]) for i, each in enumerate(points)], "a")
    picture.text(left + (WIDTH - left) / 2, top + height + 38, axis, "dim")
    picture.text(0, 10, "ms a step", "dim", anchor="start")
    return picture


def curves(results: Results) -> Iterator[tuple[Drawing, str, str]]:
    """Draw the median of a step, and how far the 99th percentile is above it.

    Parameters
    ----------
    results : mapping of str to dict

    Yields
    ------
    picture : Drawing
    alt : str
        What a reader who cannot see it should know.
    caption : str
    """
    points = _points(results)
    for axis, other in (("batch", "context"), ("context", "batch")):
        values = [each["shape"][other] for each in points]
        if not values:
            return
        fixed = max(set(values), key=values.count)
        chosen = [each for each in points if each["shape"][other] == fixed]
        chosen.sort(key=lambda each: each["shape"][axis])
        if len(chosen) > 2:
            alt = f"Milliseconds a step by {axis}, at {other} {fixed:,}."
            words = f"By {axis}, {other} {fixed:,}: the median, up to the 99th percentile."
            yield curve(chosen, axis), alt, words
