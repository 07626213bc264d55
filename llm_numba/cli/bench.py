"""``llm-numba bench``: measurements that the documentation is drawn from."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_comm import comm
from llm_numba.cli.bench_engine import engine
from llm_numba.cli.bench_gemm import gemm
from llm_numba.cli.bench_gpu import (
    Commit,
    counters,
    gpu_tests,
    kernels,
    labs,
    machine,
    sanitizer,
    stalls,
    start,
    sweep,
)
from llm_numba.cli.bench_pipeline import pipeline
from llm_numba.cli.bench_ranks import ranks
from llm_numba.cli.bench_resources import resources
from llm_numba.cli.bench_suite import every, multi
from llm_numba.cli.bench_tables import collect, finish, show

bench = typer.Typer(
    name="bench", help="Measure speed and memory, and write a record.", no_args_is_help=True
)


@bench.callback()
def _bench() -> None:
    """Measure speed and memory, and write a record."""


@bench.command()
def cpu(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/cpu_<this CPU>.json.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name or directory.")
    ] = "storyteller",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement.")] = 9,
    processes: Annotated[
        int, typer.Option(min=1, help="Fresh interpreters for start-up and loading.")
    ] = 15,
    prefill_tokens: Annotated[int, typer.Option(min=1, help="Length of the long prompt.")] = 400,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens decoded in each run.")] = 128,
    synthetic_megabytes: Annotated[
        float, typer.Option(min=1, help="Size of a random checkpoint to load.")
    ] = 200.0,
    commit: Commit = None,
) -> None:
    """Time the NumPy path: start-up, loading, prefill, and decoding at batch 1 to 16."""
    from llm_numba.bench.cpu import CPUSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.models import resolve_model

    resolve_model(model)  # start-up is timed first, which needs none
    settings = CPUSettings(
        model=model,
        repeats=repeats,
        processes=processes,
        prefill_tokens=prefill_tokens,
        new_tokens=new_tokens,
        synthetic_megabytes=synthetic_megabytes,
    )
    path = out or default_path("cpu", _this_cpu())
    require_writable(path)
    results = collect(measure(settings), "leave the machine alone for a minute or two")
    write_record(path, make_record("cpu", settings.to_json(), results, commit))
    show(results)
    finish(path)


@bench.command()
def simulator(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: docs/results/simulator_<this CPU>.json."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Fresh processes of each kernel and simulator.")
    ] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Calls of ours after the first.")] = 9,
    numba_repeats: Annotated[int, typer.Option(min=1, help="Calls of Numba's.")] = 3,
    only: Annotated[str, typer.Option(help="Kernels, separated by commas; unset: all.")] = "",
    commit: Commit = None,
) -> None:
    """Time the simulator of kernels against Numba's own, on the kernels that one can run."""
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.bench.simulator import SimulatorSettings, measure

    names = tuple(filter(None, only.split(",")))
    settings = SimulatorSettings(rounds, repeats, numba_repeats, names)
    path = out or default_path("simulator", _this_cpu())
    require_writable(path)
    results = collect(measure(settings), "leave the machine alone for some minutes")
    write_record(path, make_record("simulator", settings.to_json(), results, commit))
    show(results)
    finish(path)


bench.command("all")(every)
bench.command()(comm)
bench.command()(counters)
bench.command()(engine)
bench.command()(gemm)
bench.command("gpu-tests")(gpu_tests)
bench.command()(kernels)
bench.command()(labs)
bench.command()(machine)
bench.command()(multi)
bench.command()(pipeline)
bench.command()(ranks)
bench.command()(resources)
bench.command()(sanitizer)
bench.command()(stalls)
bench.command()(start)
bench.command()(sweep)


def _this_cpu() -> str:
    from llm_numba.runtime.machine import cpu as this_cpu

    device = this_cpu()
    return f"{device['name']} {device['cores']} cores"
