"""``llm-numba bench comm``: what it costs ranks to talk."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_gpu import Commit
from llm_numba.cli.bench_tables import collect, finish, show, show_left_out
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
    on_gpus: Annotated[
        bool, typer.Option("--gpus", help="Arrays of GPUs; a rank has one each.")
    ] = False,
    path: Annotated[
        str | None, typer.Option("--comm", help="What carries the arrays; unset: each that works.")
    ] = None,
    commit: Commit = None,
) -> None:
    """Time what ranks say to each other, by operation and size: mpirun -n 4 llm-numba bench comm.

    Each rank runs it; rank 0 writes the record, which --comm FILE.json takes elsewhere.
    """
    from llm_numba.bench.comm import CommSettings, measure
    from llm_numba.bench.record import default_path, make_record, require_writable, write_record
    from llm_numba.parallel import Mesh
    from llm_numba.parallel.launch import launched
    from llm_numba.parallel.paths import choose, connect
    from llm_numba.runtime.machine import cpu, gpus

    launch = launched()
    if launch is None or launch.size < 2:
        raise ParallelError(
            "One rank has nobody to talk to.", "Start several: mpirun -n 4 llm-numba bench comm."
        )
    with Mesh(tp=launch.size) as mesh:
        if on_gpus:
            mesh.take_gpu()
        device = "cuda" if on_gpus else "cpu"
        sizes = tuple(4**k for k in range(3, 15) if 4**k <= largest)
        settings = CommSettings(launch.size, samples=samples, sizes=sizes, device=device)
        offers = mesh.offers(mesh.world, device, path or "all")
        paths = [path] if path else [offer.path for offer in offers if not offer.problem]
        chosen = [choose(each, offers, launch.size) for each in paths]
        groups = [connect(mesh.world, each, offers, device) for each in chosen]
        machine = {"machine": asdict(mesh.machine(mesh.world))} if on_gpus else {}
        results = chain.from_iterable(measure(group, settings) for group in groups)
        if not mesh.is_leader:
            list(results)
            return
        show_left_out({offer.path: offer.problem for offer in offers if offer.problem})
        name = gpus()[0]["name"] if on_gpus else f"{cpu()['name']} {cpu()['cores']} cores"
        by = [path] if path else []
        file = out or default_path("comm", name, f"{launch.size} ranks", *by)
        require_writable(file)
        collected = collect(results, "leave the machine alone for a minute")
        noted = settings.to_json() | machine
        write_record(file, make_record("comm", noted, collected, commit))
        show(collected)
        finish(file)
