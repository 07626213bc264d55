"""``llm-numba profile``: where the time of a decode step and of a prefill goes."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.bench_tables import finish
from llm_numba.cli.console import notes, styled, tables
from llm_numba.cli.options import ModelOptions, takes_groups

if TYPE_CHECKING:
    from llm_numba.bench.profile import Profile
    from llm_numba.bench.profile_clocks import GPUClock, WallClock
    from llm_numba.engine import LLM

_PANEL = "What to write"


@takes_groups
def profile(
    model: ModelOptions,
    *,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Sequences that decode together; may be repeated; unset: 1."),
    ] = None,
    context: Annotated[
        int, typer.Option(min=4, help="Tokens of each, the new one included.")
    ] = 512,
    prefill: Annotated[
        int, typer.Option(min=0, help="Tokens of the prompt; 0 leaves the prefill out.")
    ] = 512,
    out: Annotated[
        Path | None, typer.Option(help="A record, as JSON.", rich_help_panel=_PANEL)
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="A trace for chrome://tracing or Perfetto.", rich_help_panel=_PANEL),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(help="A picture of the first decode step.", rich_help_panel=_PANEL),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="The commit that runs, for a copy of it without git.")
    ] = None,
) -> None:
    """Time each operation of a step, against the memory's own speed.

    On a GPU the kernels' times are those that CUPTI notes in replays of the step as one CUDA graph;
    on a CPU each operation is timed by the wall clock.
    """
    from llm_numba.bench.profile_picture import draw
    from llm_numba.bench.profile_report import chrome_trace, to_json
    from llm_numba.bench.record import provenance, require_writable, write_record, write_text

    paths = [path for path in (out, trace, svg) if path]
    for path in paths:
        require_writable(path)
    clock, speed = _clock_and_speed(model.device)
    batches = batch or [1]
    # An engine with fewer places would time some of the sequences, and call them all.
    llm = model.load(max_num_seqs=max(batches))
    with notes().status(styled("Measuring")):
        profiles = _profiles(llm, clock, batches, context, prefill)
    for each in profiles:
        _print(each, speed)
    if out:
        settings = {"model": model.model, "dtype": llm.dtype.name, "device": llm.device}
        record = provenance("profile", settings | {"bytes_per_second": speed}, commit)
        write_record(out, record | {"results": [to_json(each, speed) for each in profiles]})
    if trace:
        write_text(trace, json.dumps(chrome_trace(profiles)))
    if svg:
        write_text(svg, draw(profiles[0], speed))
    for path in paths:
        finish(path)


def _clock_and_speed(device: str) -> tuple["GPUClock | WallClock", float]:
    """Return what times a step on a device, and how fast a copy (or reading) of memory is there.

    Before the model comes: the copy takes memory that the KV cache will want.
    """
    import numpy as np

    from llm_numba.bench.profile_clocks import GPUClock, WallClock
    from llm_numba.errors import DeviceError
    from llm_numba.runtime import resolve_device

    device = resolve_device(device)
    if device == "sim":
        raise DeviceError(
            "The simulator counts, it has no time that a profile could show.",
            "Use --device cpu or cuda; llm-numba microscope shows what single kernels cost.",
        )
    if device == "cpu":
        from llm_numba.bench.bandwidth import weight_bandwidth

        return WallClock(), 1e9 * float(np.median(weight_bandwidth(200, 5, 2)))
    import cupy

    from llm_numba.bench.gpu_timing import GPUTimer, copy_bandwidth

    speed = float(np.median(copy_bandwidth(GPUTimer())))
    cupy.get_default_memory_pool().free_all_blocks()
    return GPUClock(), speed


def _profiles(
    llm: "LLM", clock: "GPUClock | WallClock", batches: list[int], context: int, prefill: int
) -> list["Profile"]:
    import numpy as np

    from llm_numba.bench.engine_steps import DecodePlan, EngineTimer
    from llm_numba.bench.profile import profile_step
    from llm_numba.bench.profile_traffic import StepShape
    from llm_numba.errors import PromptError

    if prefill > llm.max_model_len:
        raise PromptError(
            f"--prefill {prefill} is more than the {llm.max_model_len} tokens of the context.",
            "Give fewer; --prefill 0 leaves the prefill out.",
        )
    runner = llm.engine.runner
    timer = EngineTimer(llm)
    plan = DecodePlan.around(context, 30, 100, llm.max_model_len)
    # CUPTI leaves a process a little slower than it was: the engine's own steps come first.
    engine_seconds = [
        float(np.median(timer.decode(batch, plan, budget_seconds=2.0).seconds)) for batch in batches
    ]
    profiles = [
        dataclasses.replace(
            profile_step(runner.model, runner.kv_cache, StepShape(batch, 1, plan.context), clock),
            engine_seconds=seconds,
        )
        for batch, seconds in zip(batches, engine_seconds, strict=True)
    ]
    if prefill:
        shape = StepShape(1, prefill, prefill)
        profiles.append(profile_step(runner.model, runner.kv_cache, shape, clock))
    return profiles


def _print(profile: "Profile", speed: float) -> None:
    from rich.table import Table

    from llm_numba.bench.profile_picture import duration, title_of
    from llm_numba.bench.profile_report import rows_of

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("Operation", no_wrap=True)
    for heading in ("n", "Each", "All", "Share", "MB", "Copy", "TFLOP/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    whole = profile.engine_seconds or profile.seconds
    rows = rows_of(profile)
    for row in rows:
        table.add_row(
            row.label,
            str(row.count),
            duration(row.seconds / row.count),
            duration(row.seconds),
            f"{100 * row.seconds / whole:.1f} %",
            f"{row.traffic.num_bytes / row.count / 1e6:.3g}",
            f"{100 * row.bytes_per_second / speed:.0f} %",
            f"{row.flops_per_second / 1e12:.2g}" if row.flops else "",
        )
    console = tables()
    console.print(styled(f"{title_of(profile)}: {duration(whole)}", "bold"))
    console.print(table)
    for row in rows:
        if row.kernels:
            console.print(styled(f"{row.label}: {', '.join(row.kernels)}", "dim"))
    console.print()
    for name, part in profile.parts(speed).items():
        console.print(f"{name:20} {duration(part):>8} {100 * part / whole:6.1f} %")
    console.print(styled(f"The copy: {speed / 1e9:,.0f} GB/s\n", "dim"))
