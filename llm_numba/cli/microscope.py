"""``llm-numba microscope``: what a kernel costs, line by line, found out without a GPU."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_numba.cli.console import notes, report, styled, tables
from llm_numba.errors import LLMNumbaError

if TYPE_CHECKING:
    from llm_numba.microscope import Examination


def microscope(
    kernel: Annotated[
        str | None,
        typer.Argument(
            help="A ladder of kernels, or path/to/file.py:kernel; unset: list the ladders.",
            show_default=False,
        ),
    ] = None,
    *,
    shape: Annotated[
        str | None, typer.Option(help="Sizes, as in 64,48; unset: the ladder's example.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Storage format; unset: the ladder's first.")
    ] = None,
    step: Annotated[
        list[str] | None, typer.Option(help="A step of the ladder; may be repeated; unset: all.")
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(
            "--args",
            help="path/to/file.py:function that returns (grid, block, args) for a kernel of "
            "your own; unset: <kernel>_example or example of its file.",
        ),
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="ordered; or random: any thread may go first, at any access.")
    ] = "ordered",
    seed: Annotated[int, typer.Option(min=0, help="Of the random schedule.")] = 0,
    svg: Annotated[Path | None, typer.Option(help="Draw a picture into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Run a kernel in the simulator and say what each line costs.

    Counts sectors of global memory, wavefronts and bank conflicts of shared memory, and branches
    that split a warp. A fault in the kernel (a race, an index out of bounds, a barrier that some
    threads miss) ends it with the line and exit code 2; a result that differs from the reference,
    with exit code 1.
    """
    from llm_numba.bench.record import require_writable, write_text
    from llm_numba.kernels.ladder import all_ladders
    from llm_numba.microscope import draw
    from llm_numba.microscope.terminal import print_examination, print_ladders

    if kernel is None:
        ladders = all_ladders().values()
        if as_json:
            listed = {each.name: [step.name for step in each.steps] for each in ladders}
            typer.echo(json.dumps(listed, indent=1))
        else:
            print_ladders(tables(), ladders)
        return
    if svg:
        require_writable(svg)
    examination = _examine(kernel, shape, dtype, step, arguments, schedule, seed)
    if svg:
        write_text(svg, draw(examination))
    if as_json:
        typer.echo(json.dumps(examination.to_json(), indent=1))
    else:
        print_examination(tables(), examination)
    if svg:
        notes().print(styled(f"Drawn: {svg}", "dim"), soft_wrap=True)
    if not examination.holds:
        raise typer.Exit(1)


def _examine(
    kernel: str,
    shape: str | None,
    dtype: str | None,
    steps: list[str] | None,
    arguments: str | None,
    schedule: str,
    seed: int,
) -> "Examination":
    """Run what was asked for; a fault in it is shown with its source, and ends the command."""
    from llm_numba.microscope import examine, examine_file, is_file
    from llm_numba.microscope.terminal import print_context
    from llm_numba.simulator import SimulationError

    how = {"schedule": schedule, "seed": seed}
    _refuse(arguments and not is_file(kernel), "--args goes with path/to/file.py:kernel only.")
    _refuse((shape or dtype or steps) and is_file(kernel),
            "--shape, --dtype and --step go with a ladder only.")  # fmt: skip
    lengths = _lengths(shape)
    try:
        with notes().status("Simulating") as status:
            if is_file(kernel):
                return examine_file(kernel, arguments, **how)
            return examine(
                kernel, lengths, dtype, steps, **how,
                progress=lambda name: status.update(styled(f"Simulating {name}")),
            )  # fmt: skip
    except MemoryError:
        raise LLMNumbaError(
            f"There is not enough memory for the arrays of {kernel}.",
            "Give smaller sizes: a few tiles show all that there is to see.",
        ) from None
    except SimulationError as fault:
        report(fault)
        if fault.file and fault.line:
            print_context(notes(), [(fault.file, fault.line), *fault.related])
        raise typer.Exit(2) from fault


def _refuse(wrong: object, cause: str) -> None:
    if wrong:
        raise LLMNumbaError(cause, "Leave it out; llm-numba microscope lists the ladders.")


def _lengths(shape: str | None) -> list[int] | None:
    try:
        return shape and [int(length) for length in shape.split(",")]
    except ValueError:
        raise LLMNumbaError(
            f"--shape {shape} is no list of sizes.", "Write integers with commas: --shape 64,48."
        ) from None
