"""``llm-numba bench ranks``: a model on several ranks, by the tokens that come."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_gpu import Commit
from llm_numba.cli.bench_tables import collect, finish, show
from llm_numba.cli.options import RankOptions, takes_groups


@takes_groups
def ranks(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: in docs/results, by device, model and split."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name, directory, or random:SHAPE.")
    ] = "random:llama-3-8b",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[
        str | None, typer.Option(help="Number format; unset: the model's own.")
    ] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="May be repeated; unset: 1.")
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens before the timed steps.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Steps that count.")] = 200,
    prompt: Annotated[int, typer.Option(min=0, help="Tokens of a prompt alone; 0: none.")] = 8191,
    requests: Annotated[int, typer.Option(min=0, help="At a time; 0: none.")] = 32,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="Launch kernels one by one, no CUDA graphs.")
    ] = False,
    close_with_norm: Annotated[
        bool, typer.Option("--close-with-norm", help="Sum over ranks, residual and norm as one.")
    ] = False,
    overlap_sums: Annotated[
        bool, typer.Option("--overlap-sums", help="Sums over ranks beside products of prompts.")
    ] = False,
    overlap_launches: Annotated[
        bool, typer.Option("--overlap-launches", help="Kernels of a step begin before others end.")
    ] = False,
    commit: Commit = None,
    split: RankOptions,
) -> None:
    """Time a model on several ranks: mpirun -n 4 llm-numba bench ranks --tp 4.

    Each rank runs it; rank 0 writes the record.
    """
    from llm_numba.bench.ranks import RankSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.runtime import resolve_device
    from llm_numba.runtime.machine import cpu, gpus

    resolve_device(device)  # before the record is named after it
    chosen = {"batches": tuple(batches)} if batches else {}
    wanted = {
        "close_with_norm": close_with_norm,
        "overlap_sums": overlap_sums,
        "overlap_launches": overlap_launches,
    }
    switches = tuple(name for name, is_on in wanted.items() if is_on)
    settings = RankSettings(
        model, device, dtype, split.tp, split.pp, split.comm, enforce_eager, switches,
        context=context, steps=steps, prompt=prompt, requests=requests, **chosen,
    )  # fmt: skip
    with split.join() as mesh:
        if not mesh.is_leader:
            list(measure(mesh, settings))
            return
        machine = gpus()[0]["name"] if device == "cuda" else cpu()["name"]
        parts = (machine, model.removeprefix("random:"), f"tp{split.tp} pp{split.pp}")
        by = [] if split.comm == "auto" else [Path(split.comm).stem]
        by += ["eager"] if enforce_eager else []
        by += [switch.replace("_", "-") for switch in switches]
        path = out or default_path("ranks", *parts, *by)
        require_writable(path)
        results = collect(measure(mesh, settings), "some minutes")
        write_record(path, make_record("ranks", settings.to_json(), results, commit))
        show(results)
        finish(path)
