"""``llm-numba tune``: find the best launches for this GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_numba.cli.bench_tables import finish
from llm_numba.cli.console import notes, styled, tables

if TYPE_CHECKING:
    from llm_numba.bench.tuner import Tuned


def tune(
    kernels: Annotated[
        list[str] | None, typer.Argument(help="Names of kernels; unset: all that can be tuned.")
    ] = None,
    *,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Lengths of the axes, 1,4096,4096; may be repeated. Unset: common ones."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Storage formats, separated by commas.")
    ] = "bfloat16,float16,float32",
    show: Annotated[bool, typer.Option("--show", help="Print the table, measure nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The table; unset: the user's, which every launch reads.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="The commit that runs, for a copy of it without git.")
    ] = None,
) -> None:
    """Measure tiles, threads and splits on this GPU, and keep the best for later launches."""
    from llm_numba.bench.gpu_timing import GPUTimer
    from llm_numba.bench.record import require_writable
    from llm_numba.bench.tuner import chosen_tunables, tune, write_table
    from llm_numba.kernels.tuning import table_of, user_table
    from llm_numba.runtime import kernel_device

    tunables = chosen_tunables(kernels or ())
    shapes, dtypes = [_lengths(text) for text in shape or ()], _dtypes(dtype)
    if show:
        names = tuple(f"{each.name}/" for each in tunables)
        table = table_of(_this_gpu())
        _print({key: entry for key, entry in table.items() if key.startswith(names)})
        return
    kernel_device("cuda")
    path = out or user_table(_this_gpu())
    require_writable(path)
    found: list[Tuned] = []
    with notes().status(styled("Measuring; some minutes")) as status:
        for each in tune(tunables, shapes, dtypes, GPUTimer()):
            found.append(each)
            status.update(styled(f"Measuring; last: {each.key}"))
    write_table(path, found, commit)
    _print({each.key: each.entry() for each in found})
    finish(path)


def _lengths(text: str) -> tuple[int, ...]:
    from llm_numba.errors import LLMNumbaError

    try:
        lengths = tuple(map(int, text.split(",")))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 1:
        raise LLMNumbaError(
            f"--shape {text} is no shape.", "Give lengths of at least 1, separated by commas."
        )
    return lengths


def _dtypes(text: str) -> list[str]:
    from llm_numba.errors import LLMNumbaError

    known = ("float32", "float16", "bfloat16")
    dtypes = text.split(",")
    for dtype in dtypes:
        if dtype not in known:
            raise LLMNumbaError(
                f"--dtype {dtype} is no storage format.", f"Choose from: {', '.join(known)}."
            )
    return dtypes


def _this_gpu() -> str:
    from llm_numba.errors import DeviceError
    from llm_numba.runtime.machine import gpus

    for gpu in gpus():
        return gpu["name"]
    raise DeviceError("There is no NVIDIA GPU here.", "Run this on a machine with one.")


def _print(entries: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Kernel")
    table.add_column("Chosen")
    for heading in ("Time", "Rule's"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key, entry in entries.items():
        chosen = ", ".join(f"{name} {value}" for name, value in entry["config"].items())
        table.add_row(
            styled(key),
            styled(chosen),
            f"{1e6 * entry['seconds']:.1f} µs",
            f"{1e6 * entry['rule_seconds']:.1f} µs",
        )
    tables().print(table)
