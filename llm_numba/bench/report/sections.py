"""The sections of a report: what each is made of, and the command where there is nothing."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from llm_numba.bench import comm_picture, engine_tables, gemm_pictures, gemm_tables
from llm_numba.bench.drawing import bars
from llm_numba.bench.kernel_tables import PEERS, points, summary
from llm_numba.bench.profile_picture import describe
from llm_numba.bench.profile_picture import draw as draw_profile
from llm_numba.bench.profile_report import from_json, rows_of
from llm_numba.bench.record import commit_of, renewals
from llm_numba.bench.report.archive import Record, blaming, gpus_of
from llm_numba.bench.report.checks import CHECKS, checks
from llm_numba.bench.report.page import Block, Made, Missing, Picture, Section
from llm_numba.bench.report.pictures import Dot, roofline, scaling
from llm_numba.bench.sweep_picture import describe as describe_sweep
from llm_numba.bench.sweep_picture import draw as draw_sweep
from llm_numba.bench.tables import Table, by_name, figure, left_out, medians

_BARS = 12  # ladders that a picture has room for


@dataclass(frozen=True)
class Part:
    """A section on one or several benchmarks.

    Attributes
    ----------
    title : str
    commands : mapping of str to str
        Benchmarks, each with the command that makes its record.
    make : callable(records) -> iterator of Block
        Of the machine's records of those benchmarks, one at least.
    gpu : bool
        Whether they take a GPU.
    beside : tuple of str
        Benchmarks whose records it uses as well, if there are some.
    """

    title: str
    commands: Mapping[str, str]
    make: Callable[[Sequence[Record]], Iterator[Block]]
    gpu: bool = False
    beside: tuple[str, ...] = ()

    def section(self, records: Sequence[Record], has_gpu: bool) -> Section:
        """Return the section of a machine.

        Parameters
        ----------
        records : sequence of Record
            All of the machine.
        has_gpu : bool
        """
        known = {each.benchmark for each in records}
        blocks: list[Block] = []
        if known & set(self.commands):
            wanted = (*self.commands, *self.beside)
            blocks += self.make([each for each in records if each.benchmark in wanted])
        where = ", on a machine with a GPU" if self.gpu and not has_gpu else ""
        for benchmark, command in self.commands.items():
            if benchmark not in known:
                what = f"There is no record of `{benchmark}`"
                blocks.append(Missing(f"{what}. `{command}` makes one{where}."))
        return Section(self.title, blocks)


def environment_table(environment: Mapping[str, Any]) -> Table:
    """Return what a machine is made of.

    Parameters
    ----------
    environment : dict
        As of :func:`llm_numba.bench.environment.capture_environment`.
    """
    device, packages = environment["device"], environment["packages"]
    rows = [
        [
            f"GPU {number}",
            f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, compute capability "
            f"{gpu['compute_capability']}, driver {gpu['driver']}",
        ]
        for number, gpu in enumerate(gpus_of(environment))
    ]
    memory = f"{device['memory_bytes'] / 2**30:.0f} GiB"
    rows.append(["Processor", f"{device['name']}, {device['cores']} cores, {memory}"])
    rows.append(["System", f"{environment['os']}, Python {environment['python']}"])
    shown = ("llm-numba", "numpy", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch", "mpi4py")
    versions = ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)
    rows.append(["Packages", versions])
    return Table(["part", "what it is"], rows, words=True)


def made(record: Record) -> Made:
    """Say what made a record.

    Parameters
    ----------
    record : Record
    """
    data = record.data
    made = f"`{shlex.join(data['command'])}`, {data['date'][:10]}, commit `{commit_of(data)}`"
    return Made(f"{made}{renewals(data)}: {record.path.name}")


def sections(records: Sequence[Record], has_gpu: bool) -> list[Section]:
    """Return all sections on what was measured of one machine.

    Parameters
    ----------
    records : sequence of Record
        Of that machine.
    has_gpu : bool
        Whether it has a GPU.
    """
    return [part.section(records, has_gpu) for part in PARTS]


# -- Each of them --------------------------------------------------------------------------------


def _each(
    blocks: Callable[[Record], Iterator[Block]],
) -> Callable[[Sequence[Record]], Iterator[Block]]:
    """Make blocks of one record after another; below each stands what made it."""

    def make(records: Sequence[Record]) -> Iterator[Block]:
        for record in records:
            with blaming(record):
                yield from [*blocks(record), left_out(record.data), made(record)]

    return make


def _medians(record: Record) -> Iterator[Block]:
    yield medians(record.data["results"])


def _kernels(record: Record) -> Iterator[Block]:
    results = by_name(record.data)
    told = [f"{each} {figure(results[each]['median'])} GB/s" for each in ("copy", "read")
            if each in results]  # fmt: skip
    yield f"Memory, measured in the same run: {', '.join(told)}."
    last = {point: steps[-1] for point, steps in points(results).items()}
    shares = [(point, results[f"of_copy/{name}"]) for point, name in last.items()
              if f"of_copy/{name}" in results]  # fmt: skip
    shares.sort(key=lambda each: -each[1]["median"])
    if shown := shares[:: max(1, -(-len(shares) // _BARS))]:
        told = ", ".join(f"{point} {figure(each['median'])} %" for point, each in shown)
        alt = f"Of the copy's speed: {told}."
        picture = bars([(point.partition("/")[0], each["median"], each["p10"], each["p90"],
                         f"{figure(each['median'])} %") for point, each in shown])  # fmt: skip
        words = "Kernels that memory bounds: their share of a copy's speed."
        yield Picture(picture.svg(_quoted(alt)), alt, words)
    yield summary(results)


def _gemm(record: Record) -> Iterator[Block]:
    results = by_name(record.data)
    yield gemm_tables.goals(results)
    if any(name.startswith("of_cublas/linear/") for name in results):
        yield gemm_pictures.shares(results)


def _quoted(text: str) -> str:
    return escape(text, quote=True)


def _rooflines(records: Sequence[Record]) -> Iterator[Block]:
    fastest = None
    for record in records:
        with blaming(record):
            if record.benchmark == "kernels":
                fastest = _fastest(record)
    for record in (each for each in records if each.benchmark == "profile"):
        with blaming(record):
            groups = {}
            for entry in record.data["results"]:
                profile = from_json(entry)
                name = f"{entry['phase']}, batch {profile.shape.batch}"
                groups[name] = [Dot(row.label, row.traffic.num_bytes, row.flops, row.seconds)
                                for row in rows_of(profile)]  # fmt: skip
            roof = fastest[1] if fastest else None
            picture = roofline(groups, record.data["settings"]["bytes_per_second"], roof)
            words = f"{record.data['settings']['model']}: a point for each operation of a step."
            yield Picture(picture.svg, picture.alt, words)
            slope = "The slope is the speed of a copy, measured in the same run."
            flat = (
                f" The flat roof is the fastest product on record, {fastest[0]}." if fastest else ""
            )
            yield slope + flat
            yield made(record)


def _fastest(record: Record) -> tuple[str, float] | None:
    """Return the fastest product of a record of kernels, and its FLOPs a second."""
    products = [each for each in record.data["results"]
                if each["unit"] == "TFLOP/s" and each["name"].count("/") == 2]  # fmt: skip
    if not products:
        return None
    best = max(products, key=lambda each: each["median"])
    point, _, step = best["name"].rpartition("/")
    return f"`{point}` by {PEERS.get(step, f'our step {step}')}", 1e12 * best["median"]


def _engine(record: Record) -> Iterator[Block]:
    results = by_name(record.data)
    yield f"Model: `{record.data['settings']['model']}`."
    yield engine_tables.classic(results)
    for drawing, alt, words in engine_tables.curves(results):
        yield Picture(drawing.svg(_quoted(alt)), alt, words)
    for make in (engine_tables.decode, engine_tables.serving, engine_tables.fusion,
                 engine_tables.persistent):  # fmt: skip
        yield make(results)


def _profile(record: Record) -> Iterator[Block]:
    speed = record.data["settings"]["bytes_per_second"]
    for entry in record.data["results"]:
        profile = from_json(entry)
        yield Picture(draw_profile(profile, speed, themed=True), describe(profile, speed))


def _sweep(record: Record) -> Iterator[Block]:
    for kernel in dict.fromkeys(each["name"].partition("/")[0] for each in record.data["results"]):
        found = [each for each in record.data["results"] if each["name"].startswith(f"{kernel}/")]
        alt = describe_sweep(kernel, found)
        yield Picture(draw_sweep(found).svg(_quoted(alt)), alt, f"`{kernel}`.")


def _ranks(records: Sequence[Record]) -> Iterator[Block]:
    rates: dict[str, dict[str, dict[int, float]]] = {}
    for record in (each for each in records if each.benchmark == "ranks"):
        with blaming(record):
            model, found = record.data["settings"]["model"], record.data["results"]
            for each in (each for each in found if each["name"].startswith("decode/")):
                shape = each["shape"]
                if shape["batch"] == min(record.data["settings"]["batches"]):
                    count = shape["tp"] * shape["pp"]
                    ways = ["tensor"] * (shape["tp"] > 1) + ["pipeline"] * (shape["pp"] > 1)
                    for way in [" + ".join(ways)] if ways else ["tensor", "pipeline"]:
                        known = rates.setdefault(model, {}).setdefault(way, {})
                        known[count] = max(known.get(count, 0), shape["tokens_per_second"])
    for model, ways in rates.items():
        several = {way: known for way, known in ways.items() if len(known) > 1}
        if several:
            picture = scaling(several)
            yield Picture(picture.svg, picture.alt, f"{model}: tokens a second of one batch.")
    split = [each for each in records if each.benchmark == "ranks"]
    yield from [_splits(split), *map(made, split)]
    yield from _each(_of_ranks)([each for each in records if each.benchmark != "ranks"])


def _splits(records: Sequence[Record]) -> Table:
    """Return a row for each figure of each split of each model."""
    headings = ["model", "split", "arrays by", "measured", "median", "p10 to p90"]
    rows = []
    for record in records:
        with blaming(record):
            settings = record.data["settings"]
            split = f"tp={settings['tp']}, pp={settings['pp']}"
            for each in record.data["results"]:
                path = each["shape"]["path"] if settings["tp"] * settings["pp"] > 1 else ""
                rows.append([
                    settings["model"], split, path, each["what"],
                    f"{figure(each['median'])} {each['unit']}",
                    f"{figure(each['p10'])} to {figure(each['p90'])}",
                ])  # fmt: skip
    return Table(headings, rows, words=True)


def _of_ranks(record: Record) -> Iterator[Block]:
    if record.benchmark == "pipeline":
        yield f"Model: `{record.data['settings']['model']}`."
        yield medians(record.data["results"])
        return
    settings, found = record.data["settings"], record.data["results"]
    paths = dict.fromkeys(each["shape"]["path"] for each in found if each["shape"]["path"])
    # Of several paths the question is which; of one, what an operation takes.
    kinds = ("all_reduce", "all_gather", "send") if len(paths) > 1 else tuple(paths)
    for what in kinds:
        curves = comm_picture.curves_of(record.data, what)
        several = {name: curve for name, curve in curves.items() if len(curve) > 1}
        if several:
            yield f"{settings['ranks']} ranks: `{what}`."
            alt = comm_picture.describe(several, what)
            yield Picture(comm_picture.draw(several, what).svg(_quoted(alt)), alt)
            yield comm_picture.sizes(several)


PROFILE = {"profile": "llm-numba bench all --only profile"}
RANKS = {
    "ranks": "make bench-multi",
    "comm": "make bench-multi",
    "pipeline": "mpirun -n 2 llm-numba bench pipeline --pp 2",
}
PARTS = (
    Part("Kernels against ceilings", {"kernels": "llm-numba bench kernels"}, _each(_kernels), True),
    Part("Matrix products", {"gemm": "llm-numba bench gemm"}, _each(_gemm), True),
    Part("Roofline", PROFILE, _rooflines, beside=("kernels",)),
    Part("An engine's speed", {"engine": "llm-numba bench engine"}, _each(_engine), True),
    Part("Where a step's time goes", PROFILE, _each(_profile)),
    Part("The machine itself", {"machine": "llm-numba bench machine"}, _each(_medians), True),
    Part("Starting", {"start": "llm-numba bench start"}, _each(_medians), True),
    Part("Scaling over ranks", RANKS, _ranks),
    Part("On the processor", {"cpu": "make bench-cpu"}, _each(_medians)),
    Part("The simulator", {"simulator": "llm-numba bench simulator"}, _each(_medians)),
    Part("Launches and registers", {"sweep": "llm-numba bench sweep"}, _each(_sweep), True),
    Part("Checks", CHECKS, checks, True),
)
