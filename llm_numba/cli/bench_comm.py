"""``llm-numba bench comm``: what it costs ranks to talk."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_tables import collect, finish, show
from llm_numba.errors import ParallelError


def comm(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The record; unset: in docs/results, by CPU, ranks and --comm."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of each operation and size.")] = 21,
    largest: Annotated[
        int, typer.Option(min=64, help="Bytes of the largest array; sizes go by factors of 4.")
    ] = 16 << 20,
    path: Annotated[
        str, typer.Option("--comm", help="What carries the arrays: auto, mpi or mpi-staged.")
    ] = "auto",
) -> None:
    """Time what ranks say to each other, by operation and size: mpirun -n 4 llm-numba bench comm.

    Each rank runs it; rank 0 writes the record.
    """
    from llm_numba.bench.comm import CommSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.parallel import Mesh
    from llm_numba.parallel.launch import launched
    from llm_numba.runtime.machine import cpu

    launch = launched()
    if launch is None or launch.size < 2:
        raise ParallelError(
            "One rank has nobody to talk to.", "Start several: mpirun -n 4 llm-numba bench comm."
        )
    with Mesh(tp=launch.size, comm=path) as mesh:
        sizes = tuple(size for size in CommSettings.sizes if size <= largest)
        settings = CommSettings(launch.size, samples=samples, sizes=sizes)
        results = measure(mesh.tensor, settings)
        if not mesh.is_leader:
            list(results)
            return
        device = cpu()
        name = f"{device['name']} {device['cores']} cores"
        by = [] if path == "auto" else [path]
        file = out or default_path("comm", name, f"{launch.size} ranks", *by)
        require_writable(file)
        collected = collect(results, "leave the machine alone for a minute")
        write_record(file, make_record("comm", settings.to_json(), collected))
        show(collected)
        finish(file)
