"""``llm-numba bench pipeline``: how much of their time stages stand idle."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_gpu import Commit
from llm_numba.cli.bench_tables import finish, show
from llm_numba.errors import ParallelError


def pipeline(
    *,
    pp: Annotated[int, typer.Option("--pp", help="Stages, as many as ranks.")] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: in docs/results, by device and stages."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name, directory or random:SHAPE.")
    ] = "storyteller",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    prompt_tokens: Annotated[int, typer.Option(min=8, help="Length of the prompt.")] = 448,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each case.")] = 9,
    commit: Commit = None,
) -> None:
    """Time the stages of a pipeline, step by step: mpirun -n 2 llm-numba bench pipeline --pp 2.

    Each rank runs it; rank 0 writes the record.
    """
    from llm_numba.bench.pipeline import PipelineSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.parallel import Mesh
    from llm_numba.runtime import resolve_device
    from llm_numba.runtime.machine import cpu, gpus

    resolve_device(device)  # before the record is named after it
    if pp < 2:
        raise ParallelError(
            "One stage is no pipeline.", "Start several: mpirun -n 2 llm-numba bench pipeline."
        )
    settings = PipelineSettings(pp, model, device, prompt_tokens, repeats=repeats)
    with Mesh(pp=pp) as mesh:
        if not mesh.is_leader:
            list(measure(mesh, settings))
            return
        name = gpus()[0]["name"] if device == "cuda" else f"{cpu()['name']} {cpu()['cores']} cores"
        path = out or default_path("pipeline", name, f"{pp} stages")
        require_writable(path)
        cases = list(measure(mesh, settings))
        results = [case.result for case in cases]
        record = make_record("pipeline", settings.to_json(), results, commit)
        record["timelines"] = {case.result.name: case.to_json() for case in cases}
        write_record(path, record)
        show(results)
        finish(path)
