"""``llm-numba bench gemm``: matrix products against cuBLAS, and what they were to reach."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.bench_gpu import Commit, Into, earlier_record, gpu_path
from llm_numba.cli.bench_tables import collect, finish, show, show_left_out


def gemm(
    *,
    out: Annotated[
        Path | None, typer.Option(help="The record; unset: docs/results/gemm_<GPU>.json.")
    ] = None,
    only: Annotated[
        str, typer.Option(help='Parts or products, "small,*/4096x*"; unset: all.')
    ] = "",
    into: Into = None,
    identical: Annotated[
        int, typer.Option(min=0, help="Runs of each that must give the same bits.")
    ] = 100,
    limit: Annotated[
        float, typer.Option(min=0, help="Seconds for all; each part has a share of them.")
    ] = 180.0,
    commit: Commit = None,
) -> None:
    """Time matrix products of models, of 8 to 8192 rows, and their ladders against cuBLAS."""
    from llm_numba.bench.gemm import GemmSettings, completed, measure
    from llm_numba.bench.gemm_goals import reached
    from llm_numba.bench.machine import properties
    from llm_numba.bench.record import make_record, require_writable, write_record
    from llm_numba.bench.tables import by_name
    from llm_numba.errors import LLMNumbaError
    from llm_numba.runtime import kernel_device

    settings = GemmSettings(tuple(filter(None, only.split(","))), identical=identical)
    earlier = earlier_record(into, only)
    budget = settings.budget(limit)
    kernel_device("cuda")
    path = out or into or gpu_path("gemm")
    require_writable(path)
    wrong: list[LLMNumbaError] = []
    pictures: dict = {}
    results = collect(measure(settings, budget, wrong, pictures), "a minute or three")
    noted = settings.to_json() | {
        "limit_seconds": limit,
        "wrong": [error.cause for error in wrong],
        "gpu": properties(),
    }
    record = make_record("gemm", noted, results, commit) | pictures
    record = completed(record | {"left_out": budget.left_out}, earlier, settings.only)
    write_record(path, record)
    show([*results, *reached(by_name(record))])
    show_left_out(budget.left_out)
    finish(path)
    if wrong:
        raise LLMNumbaError(" ".join(noted["wrong"]), wrong[0].remedy)
