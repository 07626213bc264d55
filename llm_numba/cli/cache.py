"""``llm-numba cache``: the compiled kernels that are kept on disk."""

import json
from typing import Annotated

import typer

from llm_numba.cli.console import notes, styled, tables
from llm_numba.cli.models import size


def cache(
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Remove them all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Say where compiled kernels are kept, and how many; or remove them.

    Nothing in it can be out of date: a kernel that has changed has another name there.
    """
    from llm_numba.runtime.cubins import LIMIT_BYTES, cubin_cache

    kept = cubin_cache()
    if kept is None:
        if as_json:
            typer.echo(json.dumps({"directory": None}))
        else:
            notes().print(styled("No compiled kernels are kept: LLM_NUMBA_CACHE switches it off."))
        return
    removed = kept.clear() if clear else 0
    files = kept.files()
    num_bytes = sum(path.stat().st_size for path in files)
    found = {
        "directory": str(kept.directory),
        "kernels": len(files),
        "bytes": num_bytes,
        "limit_bytes": LIMIT_BYTES,
        "removed": removed,
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    tables().print(styled(str(kept.directory)), soft_wrap=True)
    tables().print(f"{len(files)} kernels, {size(num_bytes)} of at most {size(LIMIT_BYTES)}")
    if clear:
        notes().print(styled(f"{removed} kernels removed"))
