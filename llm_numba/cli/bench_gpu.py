"""``llm-numba bench``, the commands that need a GPU, or what one left behind."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_numba.cli.bench_tables import (
    collect,
    finish,
    show,
    show_counters,
    show_left_out,
    show_table,
)
from llm_numba.cli.console import notes, styled

Commit = Annotated[
    str | None, typer.Option(help="The commit that runs, for a copy of it without git.")
]
Ncu = Annotated[str | None, typer.Option(help="Path of Nsight Compute's ncu, if it is not found.")]
Keep = Annotated[
    Path | None, typer.Option(help="Directory that ncu's own table, ncu.csv, stays in.")
]
Into = Annotated[
    Path | None, typer.Option(help="A record of all, to renew in it what --only names.")
]


def counters(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: docs/results/simulator_counters_<GPU>.json."),
    ] = None,
    ncu: Ncu = None,
    keep: Keep = None,
    kept: Annotated[
        Path | None,
        typer.Option(help="Directory of an earlier --keep, in place of a run; no GPU."),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(help="Simulate anew against the hardware's figures of this record; no GPU."),
    ] = None,
    commit: Commit = None,
) -> None:
    """Count requests, sectors and wavefronts in the simulator and by Nsight Compute."""
    from llm_numba.bench.counters import kept_record, new_record, renewed_record
    from llm_numba.bench.record import read_record, require_writable, write_record

    path = out or again or gpu_path("simulator_counters")
    require_writable(path)
    with notes().status("Counting; a minute or two"):
        if again:
            record = renewed_record(read_record(again))
        elif kept:
            record = kept_record(kept)
        else:
            record = new_record(ncu, keep, commit)
    write_record(path, record)
    show_counters(record["results"])
    told = ", ".join(f"{count} {kind}" for kind, count in record["summary"].items())
    notes().print(styled(f"\nCounters: {told}"))
    finish(path)


def stalls(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/stalls_<GPU>.json.")
    ] = None,
    ncu: Ncu = None,
    keep: Keep = None,
    commit: Commit = None,
) -> None:
    """Ask Nsight Compute what the products that are short of their goals wait for."""
    from llm_numba.bench.record import require_writable, write_record
    from llm_numba.bench.stalls import new_record, table

    path = out or gpu_path("stalls")
    require_writable(path)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    with notes().status("Profiling; a minute or two"):
        record = new_record(ncu, keep, commit)
    write_record(path, record)
    show_table(table(record["results"]))
    finish(path)


def gpu_tests(
    *,
    junit: Annotated[Path, typer.Option(help="What `make test-gpu JUNIT=FILE.xml` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/gpu_tests_<GPU>.json.")
    ] = None,
    commit: Commit = None,
) -> None:
    """Make a record of the tests that ran on this machine's GPU."""
    from llm_numba.bench.gpu_tests import record_of
    from llm_numba.bench.record import require_writable, write_record

    path = out or gpu_path("gpu_tests")
    require_writable(path)
    record = record_of(junit, commit)
    write_record(path, record)
    totals = record["totals"]
    told = ", ".join(f"{totals[kind]} {kind}" for kind in totals if kind != "seconds")
    notes().print(styled(f"{told} in {totals['seconds']:.0f} s"))
    finish(path)


def sanitizer(
    *,
    logs: Annotated[
        Path, typer.Option(help="A folder with one of each tool's, as `make test-sanitizer` made.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/sanitizer_<GPU>.json.")
    ] = None,
    tests: Annotated[
        str, typer.Option(help="Which tests these were, in words; unset: all of them.")
    ] = "",
    commit: Commit = None,
) -> None:
    """Make a record of what compute-sanitizer found in the tests on this machine's GPU."""
    from llm_numba.bench.record import require_writable, write_record
    from llm_numba.bench.sanitizer import ALL_TESTS, TOOLS, record_of
    from llm_numba.errors import LLMNumbaError

    folders = {tool: logs / tool for tool in TOOLS if (logs / tool).is_dir()}
    if not folders:
        raise LLMNumbaError(
            f"{logs} has no folder named after a tool: {', '.join(TOOLS)}.",
            "Run make test-sanitizer first.",
        )
    path = out or gpu_path("sanitizer")
    require_writable(path)
    record = record_of(folders, commit, tests or ALL_TESTS)
    write_record(path, record)
    for run in record["results"]:
        told = f"{run['name']}: {run['findings']} findings in {run['tests']['passed']} tests"
        notes().print(styled(told))
    finish(path)


def kernels(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/kernels_<GPU>.json.")
    ] = None,
    only: Annotated[str, typer.Option(help='Ladders, "softmax,gemm/float32"; unset: all.')] = "",
    into: Into = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement.")] = 30,
    commit: Commit = None,
) -> None:
    """Time every step of every ladder against PyTorch and the memory's own speed."""
    from llm_numba.bench.kernels import CEILINGS, KernelSettings, choose, measure
    from llm_numba.bench.record import make_record, renew, require_writable, write_record
    from llm_numba.errors import LLMNumbaError
    from llm_numba.runtime import kernel_device
    from llm_numba.runtime.machine import gpu_clocks

    settings = KernelSettings(tuple(filter(None, only.split(","))), repeats)
    earlier = earlier_record(into, only)
    kernel_device("cuda")
    points = choose(settings.only)
    path = out or into or gpu_path("kernels")
    require_writable(path)
    clocks = [gpu_clocks()]
    wrong: list[LLMNumbaError] = []
    results = collect(measure(settings, wrong), "some minutes")
    clocks.append(gpu_clocks())
    noted = settings.to_json() | {
        "clocks": dict(zip(("before", "after"), clocks, strict=True)),
        "wrong": [error.cause for error in wrong],
        "pytorch": {point.name: point.eager_code for point in points if point.eager},
    }
    record = make_record("kernels", noted, results, commit)
    if earlier is not None:
        record = renew(earlier, record, settings.only, CEILINGS)
    write_record(path, record)
    show(results)
    finish(path)
    if wrong:
        raise LLMNumbaError(" ".join(noted["wrong"]), wrong[0].remedy)


def labs(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/labs_<GPU>.json.")
    ] = None,
    only: Annotated[str, typer.Option(help="Labs, separated by commas.")] = "all",
    mpi: Annotated[bool, typer.Option("--mpi", help="Run ranks by mpirun, too.")] = False,
    commit: Commit = None,
) -> None:
    """Grade the labs' solutions on this GPU, and race them and slow versions beside our kernels."""
    from llm_numba.bench.labs import record_of
    from llm_numba.bench.record import require_writable, write_record

    path = out or gpu_path("labs")
    require_writable(path)
    record = record_of(only, mpi=mpi, commit=commit)
    write_record(path, record)
    passed = sum(each["passed"] for each in record["labs"])
    notes().print(styled(f"{passed} of {len(record['labs'])} solutions get all points"))
    show_left_out(record["left_out"])
    finish(path)


def machine(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/machine_<GPU>.json.")
    ] = None,
    only: Annotated[str, typer.Option(help='Parts, "chase,banks"; unset: all.')] = "",
    into: Into = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement.")] = 9,
    limit: Annotated[
        float, typer.Option(min=0, help="Seconds for all; each part has a share of them.")
    ] = 120.0,
    commit: Commit = None,
) -> None:
    """Measure latencies and bandwidths of memory, conflicts, divergence, launches and streams."""
    from llm_numba.bench.machine import MachineSettings, choose, measure, properties
    from llm_numba.bench.record import make_record, renew, require_writable, write_record
    from llm_numba.runtime import kernel_device
    from llm_numba.runtime.machine import gpu_clocks

    settings = MachineSettings(choose(only), repeats)
    earlier = earlier_record(into, only)
    kernel_device("cuda")
    path = out or into or gpu_path("machine")
    require_writable(path)
    budget = settings.budget(limit)
    timelines: dict = {}
    gpu, clocks = properties(), [gpu_clocks()]
    results = collect(measure(settings, budget, timelines), "a minute or two")
    clocks.append(gpu_clocks())
    noted = settings.to_json() | {
        "limit_seconds": limit,
        "clocks": dict(zip(("before", "after"), clocks, strict=True)),
        "gpu": gpu,
    }
    record = make_record("machine", noted, results, commit)
    left_out = budget.left_out
    if earlier is not None:
        record, timelines = renew(earlier, record, settings.parts), earlier["timelines"] | timelines
        before = earlier["left_out"].items()
        left_out |= {key: why for key, why in before if key.partition("/")[0] not in settings.parts}
    write_record(path, record | {"left_out": left_out, "timelines": timelines})
    show(results)
    show_left_out(budget.left_out)
    finish(path)


def start(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/start_<GPU>.json.")
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Shape of the checkpoint that is loaded from the system's cache.")
    ] = "llama-3-8b",
    disk_shape: Annotated[
        str, typer.Option(help="Shape of that which is loaded from the disk.")
    ] = "llama-3.2-1b",
    repeats: Annotated[int, typer.Option(min=1, help="Loads of each.")] = 3,
    models: Annotated[
        str, typer.Option(help="Models to start, separated by commas.")
    ] = "random:llama-3-8b,storyteller",
    processes: Annotated[int, typer.Option(min=1, help="Warm starts of each.")] = 3,
    limit: Annotated[
        float, typer.Option(min=0, help="Seconds for all; each part has a share of them.")
    ] = 150.0,
    commit: Commit = None,
) -> None:
    """Time starts with and without compiled kernels, and the way of weights to the GPU."""
    from llm_numba.bench.gpu_start import StartSettings, measure
    from llm_numba.bench.record import make_record, require_writable, write_record
    from llm_numba.models import resolve_model
    from llm_numba.runtime import kernel_device

    kernel_device("cuda")
    chosen = tuple(models.split(","))
    settings = StartSettings(shape, disk_shape, repeats, chosen, processes)
    for model in (f"random:{shape}", f"random:{disk_shape}", *chosen):
        resolve_model(model)
    path = out or gpu_path("start")
    require_writable(path)
    budget = settings.budget(limit)
    results = collect(measure(settings, budget), "a minute or two")
    noted = settings.to_json() | {"limit_seconds": limit}
    record = make_record("start", noted, results, commit)
    write_record(path, record | {"left_out": budget.left_out})
    show(results)
    show_left_out(budget.left_out)
    finish(path)


def sweep(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/sweep_<GPU>.json.")
    ] = None,
    only: Annotated[str, typer.Option(help="Kernels, separated by commas; unset: all.")] = "",
    commit: Commit = None,
) -> None:
    """Time kernels by threads and registers, against the occupancy that these leave."""
    from llm_numba.bench.record import make_record, require_writable, write_record
    from llm_numba.bench.sweep import SHAPES, SweepSettings, measure
    from llm_numba.errors import LLMNumbaError
    from llm_numba.runtime import kernel_device

    names = tuple(filter(None, only.split(","))) or tuple(SHAPES)
    if unknown := [name for name in names if name not in SHAPES]:
        raise LLMNumbaError(
            f"--only {unknown[0]} names no kernel that is swept.",
            f"Choose of: {', '.join(SHAPES)}.",
        )
    kernel_device("cuda")
    settings = SweepSettings(names)
    path = out or gpu_path("sweep")
    require_writable(path)
    results = collect(measure(settings), "some minutes")
    write_record(path, make_record("sweep", settings.to_json(), results, commit))
    show(results)
    finish(path)


def earlier_record(into: Path | None, only: str) -> dict[str, Any] | None:
    """Read the record that is to be renewed, if there is one."""
    from llm_numba.bench.record import read_record
    from llm_numba.errors import LLMNumbaError

    if into is None:
        return None
    if not only:
        raise LLMNumbaError(
            "--into renews a part of a record, and no part is named.", "Name some with --only."
        )
    return read_record(into)


def gpu_path(benchmark: str) -> Path:
    """Return where the record of this machine's GPU goes."""
    from llm_numba.bench.record import default_path
    from llm_numba.errors import DeviceError
    from llm_numba.runtime.machine import gpus

    for gpu in gpus():
        return default_path(benchmark, gpu["name"])
    raise DeviceError(
        "There is no NVIDIA GPU here.", "Run this on a machine with one, or name a file with --out."
    )
