"""``llm-numba shard``: a checkpoint with a file for each rank."""

from pathlib import Path
from typing import Annotated

import typer

from llm_numba.cli.console import loading_bar, styled, tables
from llm_numba.cli.models import size


def shard(
    model: Annotated[
        str,
        typer.Argument(
            help="Bundled name, directory (shards of another split, too), or hub id.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option(help="Directory to write; must not exist yet.", show_default=False)
    ],
    tp: Annotated[
        int, typer.Option("--tp", min=1, help="Tensor-parallel ranks: parts of each layer.")
    ] = 1,
    pp: Annotated[int, typer.Option("--pp", min=1, help="Stages: parts of the depth.")] = 1,
    layout: Annotated[
        str, typer.Option(help="How products are cut: megatron or gather.")
    ] = "megatron",
) -> None:
    """Write a model in shards, one for each of tp x pp ranks.

    A rank finds its weights in one piece each. Any other split can read the shards, too, and so can
    every command that takes a directory.
    """
    from rich.table import Table

    from llm_numba.models import Execution, open_model, resolve_model, write_shards

    files = open_model(resolve_model(model))
    layout = Execution(tensor_layout=layout).tensor_layout
    with loading_bar(model) as progress:
        paths = write_shards(files, out, tp, pp, layout, progress)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Rank", "Stage", "Tensor rank"):
        table.add_column(heading, justify="right")
    table.add_column("File")
    table.add_column("Bytes", justify="right")
    for rank, path in enumerate(paths):
        places = str(rank), str(rank // tp), str(rank % tp)
        table.add_row(*places, styled(path.name), size(path.stat().st_size))
    tables().print(table)
