"""What ``llm-numba bench gemm`` wrote, as tables."""

from typing import Any

from llm_numba.bench.gemm_goals import GOALS, PREFIX
from llm_numba.bench.gemm_points import EIGHT, SEVENTY
from llm_numba.bench.tables import Results, Table, figure, with_unit

# What the tensor cores of an SM make in a cycle, of 16-bit numbers, by capability: 4,096 of 132
# SMs at 1.83 GHz are the 989 TFLOP/s of the H100's data sheet. Of tf32 it is half.
FLOPS_PER_CYCLE = {"9.0": 4096}
PROJECTIONS = {
    shape: f"{model} {name}"
    for model, shapes in (("8B", EIGHT), ("70B", SEVENTY))
    for shape, name in zip(shapes, ("q, k, v", "output", "gate, up", "down"), strict=True)
}


def goals(results: Results) -> Table:
    """Return what is to be reached on an H100, and what is.

    Parameters
    ----------
    results : mapping of str to dict
        Of a record, by name; {} where there is none.
    """
    rows = []
    for goal in GOALS:
        sign, found = ("≤" if goal.reduce == "most" else "≥"), results.get(f"{PREFIX}/{goal.name}")
        unit = {"most": " %", "best": " TFLOP/s"}.get(goal.reduce, "")
        row = [goal.what] + [
            "" if bound is None else f"{sign} {figure(bound)}{unit}"
            for bound in (goal.must, goal.stretch)
        ]
        if found is None:
            rows.append([*row, "-", f"0 of {len(goal.names)}"])
            continue
        reached, short = f"{figure(found['median'])}{unit}", ""
        if goal.must is not None:
            is_met = found["median"] <= goal.must if sign == "≤" else found["median"] >= goal.must
            short = "" if is_met else ", short"
        products = f"{found['shape']['measured']} of {len(goal.names)}"
        if "which" in found["shape"] and len(goal.names) > 1:
            products += f": {found['shape']['which'].rpartition('/')[2]}"
        rows.append([*row, reached + short, products])
    return Table(["what", "must", "would be fine", "reached", "products"], rows)


def products(results: Results, part: str, capability: str, multiprocessors: int) -> Table:
    """Return a row for each product of a part, as a model calls it.

    Parameters
    ----------
    results : mapping of str to dict
    part : str
        Of the benchmark.
    capability : str
        Of the GPU, ``"9.0"``.
    multiprocessors : int
        That it has.
    """
    headings = ["M x N x K", "kernel", "µs", "TFLOP/s", "of cuBLAS", "GB/s", "MHz", "W"]
    headings.append("tensor cores")
    rows = []
    for each in sorted(linears(results, part), key=lambda each: each["shape"]["M"]):
        shape = each["shape"]
        share = of_tensor_cores(each, capability, multiprocessors)
        name = each["name"]
        rows.append([
            _size(shape),
            ", ".join(f"`{kernel}`" for kernel in shape["kernels"]),
            figure(shape["microseconds"]),
            figure(each["median"]),
            with_unit(results, f"of_cublas/{name}").removesuffix(" x"),
            figure(shape["bytes"] / shape["microseconds"] / 1e3),
            figure(shape["sm_mhz"]) if "sm_mhz" in shape else "",
            figure(shape["watts"]) if "watts" in shape else "",
            "" if share is None else f"{100 * share:.0f} %",
        ])  # fmt: skip
    return Table(headings, rows)


def _size(shape: dict[str, Any]) -> str:
    return f"{shape['M']} x {shape['N']} x {shape['K']}"


def linears(results: Results, *parts: str) -> list[dict[str, Any]]:
    """Return the results of products as they are called, without an epilogue.

    Parameters
    ----------
    results : mapping of str to dict
    *parts : str
        Of the benchmark.
    """
    found = [each for name, each in results.items() if name.startswith(("linear/", "tf32/"))]
    return [each for each in found if each["shape"]["part"] in parts]


def of_tensor_cores(each: dict[str, Any], capability: str, multiprocessors: int) -> float | None:
    """Return which share of the tensor cores' cycles a product took, at the clock of that time.

    Parameters
    ----------
    each : dict
        A result in TFLOP/s.
    capability : str
    multiprocessors : int

    Returns
    -------
    float or None
        None where the clock or the GPU is not known.
    """
    most, mhz = FLOPS_PER_CYCLE.get(capability), each["shape"].get("sm_mhz")
    if not most or not mhz:
        return None
    if each["shape"]["dtype"] == "float32":
        most /= 2
    return each["median"] * 1e12 / (most * multiprocessors * mhz * 1e6)


def steps(results: Results) -> Table:
    """Return a row for each step of the ladders, a column for each square product.

    Parameters
    ----------
    results : mapping of str to dict
    """
    speeds = [
        each
        for each in results.values()
        if each["shape"].get("part") in ("projections", "steps")
        and each["shape"]["M"] == each["shape"]["N"] == each["shape"]["K"]
        and each["unit"] == "TFLOP/s"
    ]
    keys = list(dict.fromkeys(_key(each) for each in speeds))
    ways = dict.fromkeys(each["name"].removesuffix(f"/{_key(each)}") for each in speeds)
    headings = ["way"]
    for key in keys:
        size = f"{int(key.rpartition('x')[2]):,} cubed"
        headings += [f"{size}, TFLOP/s", "of cuBLAS"]
    rows = []
    for way in ways:
        row = [f"`{way}`" if way != "cublas" else "cuBLAS"]
        for key in keys:
            row.append(with_unit(results, f"{way}/{key}").removesuffix(" TFLOP/s"))
            share = f"of_cublas/{way}/{key}"
            row.append(figure(results[share]["median"]) if share in results else "")
        rows.append(row)
    return Table(headings, rows)


def _key(each: dict[str, Any]) -> str:
    shape = each["shape"]
    return f"{shape['dtype']}/{shape['M']}x{shape['N']}x{shape['K']}"


def pipeline(results: Results) -> Table:
    """Return which share of a block's time each role did what.

    Parameters
    ----------
    results : mapping of str to dict
    """
    found = [each for name, each in results.items() if name.startswith("pipeline/")]
    rows = [[each["what"], f"{each['median']:.1f} %"] for each in found]
    return Table(["one block", "of its time"], rows)


def epilogues(results: Results) -> Table:
    """Return what epilogues take on top of the plain product.

    Parameters
    ----------
    results : mapping of str to dict
    """
    rows = []
    for name, each in results.items():
        if name.startswith("over_linear/"):
            shape, way = each["shape"], name.split("/")[1]
            times = [figure(shape[one]) for one in ("plain", "microseconds")]
            apart = results.get(name.replace("over_linear", "saved", 1))
            row = [f"`{way}`, {_size(shape)}", *times, f"{each['median']:+.1f} %"]
            rows.append([*row, f"{-apart['median']:+.1f} %" if apart else ""])
    headings = ["epilogue, M x N x K", "plain, µs", "with it, µs", "more", "than GELU apart"]
    return Table(headings, rows)
