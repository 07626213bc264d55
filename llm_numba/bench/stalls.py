"""``llm-numba bench stalls``: what the warps of a product wait for, by Nsight Compute.

Of every product here some figure is short of what it should be, and the reason is asked of the
hardware. It counts, each time a scheduler looks for an instruction to issue, the warps that could
not go on, by what they waited for; and how busy tensor cores and memories were. ::

    python -m llm_numba.bench.stalls FILE        launches all products: what ncu runs

ncu runs a launch again for every few counters, each time alone and with empty caches. So it takes
longer than in :mod:`llm_numba.bench.gemm`, whose times are those that count.

Source: "Nsight Compute Documentation, Profiling Guide: Metrics Reference", NVIDIA.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm_numba.bench import ncu
from llm_numba.bench.gemm_points import Product, plan, why_not
from llm_numba.bench.record import provenance
from llm_numba.bench.tables import Table, figure
from llm_numba.runtime import Launch, launch_all

PRODUCTS = (
    # Few rows and few columns.
    *(Product("stalls", M, N, 4096) for M in (64, 128) for N in (4096, 6144)),
    # What comes behind the products.
    *(Product("stalls", M, 4096, 4096, ways=("linear", "residual")) for M in (2048, 8192)),
    Product("stalls", 2048, 6144, 4096, ways=("linear", "bias_gelu")),
    # Squares, and by `mma.sync`.
    Product("stalls", 4096, 4096, 4096),
    Product("stalls", 8192, 8192, 8192, ways=("linear", "gemm_tensorcore/interleaved")),
)
# Shares of the most there could be, in per cent; of several names the first that ncu has.
SHARES = {
    "tensor cores": (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_elapsed",
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_elapsed",
    ),
    "memory": ("dram__throughput.avg.pct_of_peak_sustained_elapsed",),
    "L2": ("lts__throughput.avg.pct_of_peak_sustained_elapsed",),
    "issued": ("smsp__issue_active.avg.pct_of_peak_sustained_active",),
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
}
REASONS = (
    "barrier", "branch_resolve", "dispatch_stall", "drain", "gmma", "imc_miss", "lg_throttle",
    "long_scoreboard", "math_pipe_throttle", "membar", "mio_throttle", "misc", "no_instruction",
    "not_selected", "short_scoreboard", "sleeping", "tex_throttle", "wait", "warpgroup_arrive",
)  # fmt: skip
DURATION = "gpu__time_duration.sum"  # nanoseconds
_KERNELS = "gemm_.*"  # and not those that make the numbers
_MOST_SHOWN = 3


def stall_metric(reason: str) -> str:
    """Return what ncu calls the warps that wait for a reason, on average.

    Parameters
    ----------
    reason : str
        Of `REASONS`.
    """
    return f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio"


METRICS = (
    DURATION,
    *(name for names in SHARES.values() for name in names),
    *map(stall_metric, REASONS),
)


def named_launches(device: str) -> Iterator[tuple[str, Product, Launch]]:
    """Make the launches of all products that a device can compute, each with its name.

    Parameters
    ----------
    device : {"cuda", "sim"}
    """
    for number, product in enumerate(PRODUCTS):
        operands = product.operands(number, device)
        for way in product.ways:
            if why_not(way, operands["x"]) is None:
                for each in plan(way, operands).launches:
                    yield f"{way}/{product.key}", product, each


def new_record(
    program: str | None = None, keep: Path | None = None, commit: str | None = None
) -> dict[str, Any]:
    """Profile all products on this machine's GPU.

    Parameters
    ----------
    program : str, optional
        Path of ncu; by default it is looked for.
    keep : Path, optional
        An existing directory in which ncu's table stays, as ``ncu.csv``.
    commit : str, optional
        What runs, for a copy of the checkout without git.

    Returns
    -------
    dict
        With a result for each launch, as :func:`results_of` makes them.

    Raises
    ------
    LLMNumbaError
        If ncu fails, or shows other launches than were made.
    """
    with TemporaryDirectory() as folder:
        names, log = Path(folder) / "launches.json", (keep or Path(folder)) / "ncu.csv"
        command = [sys.executable, "-m", __name__, str(names)]
        metrics = ncu.profile_known(program, command, METRICS, log, _KERNELS)
        results = results_of(json.loads(names.read_text()), ncu.parse(log.read_text()))
    return provenance("stalls", {"metrics": metrics}, commit) | {"results": results}


def results_of(
    expected: Sequence[Mapping[str, Any]], profiled: Sequence[ncu.ProfiledLaunch]
) -> list[dict[str, Any]]:
    """Find the figures of each launch.

    Parameters
    ----------
    expected : sequence of mapping
        As :func:`describe` returned them.
    profiled : sequence of ProfiledLaunch

    Returns
    -------
    list of dict
        ``name``, ``kernel``, ``shape``, ``microseconds``, ``shares`` (per cent, by the names of
        `SHARES`) and ``stalls`` (warps by reason, most of them first). What ncu does not have is
        not among them.
    """
    order = [(each["kernel"], tuple(each["grid"]), tuple(each["block"])) for each in expected]
    results = []
    for each, launch in zip(expected, ncu.pair(order, profiled), strict=True):
        known = {name: value for name, value in launch.metrics.items() if value is not None}
        shares = {
            what: next(known[name] for name in names if name in known)
            for what, names in SHARES.items()
            if known.keys() & {*names}
        }
        stalls = {
            reason: known[stall_metric(reason)]
            for reason in REASONS
            if known.get(stall_metric(reason))
        }
        results.append(
            {
                "name": each["name"],
                "kernel": each["kernel"],
                "shape": each["shape"] | {"grid": each["grid"], "block": each["block"]},
                "microseconds": known[DURATION] / 1e3,
                "shares": shares,
                "stalls": dict(sorted(stalls.items(), key=lambda stall: -stall[1])),
            }
        )
    return results


def describe(name: str, product: Product, item: Launch) -> dict[str, Any]:
    """Say of a launch what it takes to find it in ncu's table.

    Parameters
    ----------
    name : str
    product : Product
    item : Launch
    """
    shape = {"M": product.M, "N": product.N, "K": product.K}
    kernel = item.kernel.py_func.__name__
    return {
        "name": name, "kernel": kernel, "shape": shape, "grid": item.grid, "block": item.block
    }  # fmt: skip


def table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out a record's results: a row for each launch.

    Parameters
    ----------
    results : sequence of mapping
        As of :func:`results_of`.
    """
    rows = []
    for each in results:
        waits = [
            f"{reason.replace('_', ' ')} {figure(warps)}"
            for reason, warps in list(each["stalls"].items())[:_MOST_SHOWN]
        ]
        shares = [_percent(each["shares"].get(what)) for what in SHARES]
        cells = (f"`{each['name']}`", figure(each["microseconds"]), *shares, ", ".join(waits))
        rows.append(cells)
    return Table(("product", "µs", *SHARES, "warps that wait, for what"), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"


if __name__ == "__main__":
    import cupy

    made = list(named_launches("cuda"))
    Path(sys.argv[1]).write_text(json.dumps([describe(*each) for each in made]))
    launch_all(each for *_, each in made)
    cupy.cuda.runtime.deviceSynchronize()
