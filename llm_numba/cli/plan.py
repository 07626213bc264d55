"""``llm-numba plan``: a model on many GPUs, before anybody rents them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from llm_numba.cli.console import notes, styled
from llm_numba.cli.options import takes_groups
from llm_numba.errors import LLMNumbaError

if TYPE_CHECKING:
    from llm_numba.planner import Question
    from llm_numba.planner.collectives import LinkTable

_SPLIT, _LOAD, _HARDWARE = "Split", "Load", "Hardware"
_CONTEXT = 2048
# What is planned where neither an option nor a preset says so.
_DEFAULTS: dict[str, Any] = {"model": "llama-3-8b", "gpu": "h100"}


@dataclass(frozen=True)
class PlanOptions:
    """What to plan; unset: the preset's, or one GPU, one sequence."""

    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            help="Shape, as llama-3-70b; or bundled name, directory, hub id; unset: llama-3-8b.",
            show_default=False,
        ),
    ] = None
    preset: Annotated[
        str | None, Option(help="A well-known case: 70b-tp8-pp2, 70b-tp8-pp4, 13b-batch, ...")
    ] = None
    tp: Annotated[int | None, Option(help="Tensor ranks.", rich_help_panel=_SPLIT)] = None
    pp: Annotated[int | None, Option(help="Pipeline stages.", rich_help_panel=_SPLIT)] = None
    micro_batches: Annotated[
        int | None,
        Option(help="Of a round; unset: what is fastest.", rich_help_panel=_SPLIT),
    ] = None
    batch: Annotated[int | None, Option(help="Sequences at a time.", rich_help_panel=_LOAD)] = None
    context: Annotated[
        int | None,
        Option(
            help="Tokens of each, prompt and answer; unset: 2048, or the model's most.",
            rich_help_panel=_LOAD,
        ),
    ] = None
    prompt: Annotated[
        int | None,
        Option(help="Tokens of a prompt; unset: 512.", rich_help_panel=_LOAD),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None, Option(help="Tokens of a prompt's step; unset: 2048.", rich_help_panel=_LOAD)
    ] = None
    dtype: Annotated[
        str | None,
        Option(help="bfloat16 or float16; unset: that of the weights.", rich_help_panel=_LOAD),
    ] = None
    gpu: Annotated[
        str | None,
        Option(help="h100, h200, a100, rtx-4090 or l4.", rich_help_panel=_HARDWARE),
    ] = None
    gpu_memory_gb: Annotated[
        float | None,
        Option(
            "--gpu-memory",
            help="GiB that an engine may take of a GPU; unset: nine tenths.",
            rich_help_panel=_HARDWARE,
        ),
    ] = None
    inside: Annotated[
        str | None,
        Option(help="Link inside a host, as nvlink-4, pcie-5.", rich_help_panel=_HARDWARE),
    ] = None
    outside: Annotated[
        str | None,
        Option(help="Link between hosts, as infiniband-ndr.", rich_help_panel=_HARDWARE),
    ] = None
    link_times: Annotated[
        Path | None,
        Option(
            help="Record of `llm-numba bench comm` between tensor ranks, for the package's times.",
            rich_help_panel=_HARDWARE,
        ),
    ] = None


@takes_groups
def plan(
    options: PlanOptions,
    *,
    sweep: Annotated[
        bool, Option("--sweep", help="Plan every split and batch, up to 1,024 GPUs.")
    ] = False,
    svg: Annotated[Path | None, Option(help="Draw the sweep into this file.")] = None,
    check: Annotated[
        list[Path] | None,
        Option(
            help="Hold the plan against an engine's record; may be repeated.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Write JSON.")] = False,
) -> None:
    """Plan a model on many GPUs: what each holds, and how fast it would be.

    Memory is the engine's own arithmetic. Times are made of kernels as measured on an H100, scaled
    to other GPUs by data sheet, and of formulas for messages; what was not measured is said beneath
    the tables. Exit code 2 means that something does not divide or does not fit.
    """
    from llm_numba.cli import plan_tables
    from llm_numba.planner import make_plan, packaged_table

    table = packaged_table()
    if check:
        found = _compare(check)
        plan_tables.show_comparisons(found, as_json=as_json)
        return
    name, question = _question(options)
    links = _links(options.link_times, question)
    if not sweep:
        if svg:
            raise LLMNumbaError("--svg draws a sweep.", "Give --sweep, too.")
        made = make_plan(question, table, links)
        plan_tables.show_plan(name, made, as_json=as_json)
        return
    _sweep(name, question, svg, as_json=as_json)


def _question(options: PlanOptions) -> tuple[str, "Question"]:
    """Put together what was asked: an option outdoes the preset."""
    from llm_numba.planner import Question, find_gpu
    from llm_numba.planner.presets import find_preset

    given = {name: value for name, value in vars(options).items() if value is not None}
    preset = find_preset(given.pop("preset")).asked if "preset" in given else {}
    asked = _DEFAULTS | preset | given
    asked.pop("link_times", None)
    name = asked.pop("model")
    config = _config(name)
    dtype = _dtype(asked.pop("dtype", None), config.dtype)
    asked.setdefault("context", min(_CONTEXT, config.longest_context))
    return name, Question(config, dtype, find_gpu(asked.pop("gpu")), **asked)


def _config(name: str) -> Any:
    """Find a shape by its name, with or without "random:", or the model of a directory."""
    from llm_numba.models import load_config, random_shapes, resolve_model
    from llm_numba.models.random import PREFIX

    named = f"{PREFIX}{name}" if name in random_shapes() else name
    return load_config(resolve_model(named))


def _dtype(wanted: str | None, stored: str) -> Any:
    import ml_dtypes
    import numpy as np

    halves = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
    if wanted is None:
        wanted = stored if stored in halves else "bfloat16"
    if wanted not in halves:
        raise LLMNumbaError(
            f"There are no kernel times for weights in {wanted!r}.",
            f"Choose from: {', '.join(halves)}.",
        )
    return np.dtype(halves[wanted])


def _links(path: Path | None, question: "Question") -> "dict[str, LinkTable]":
    """Return the package's times of links, with the record's for the link of tensor ranks."""
    from llm_numba.bench.record import read_record
    from llm_numba.planner.collectives import LinkTable
    from llm_numba.planner.links import packaged_links
    from llm_numba.planner.plan import links_of

    links = packaged_links()
    if path is not None:
        tensor, _ = links_of(question, links)
        links[tensor.name] = LinkTable.from_record(read_record(path), path.name)
    return links


def _compare(paths: list[Path]) -> list[Any]:
    from llm_numba.bench.record import read_record
    from llm_numba.planner import packaged_table
    from llm_numba.planner.check import compare, is_comparable

    table, found = packaged_table(), []
    for path in paths:
        record = read_record(path)
        if not is_comparable(record):
            raise LLMNumbaError(
                f"{path} is no record of an engine with random weights, with graphs, on a GPU that"
                " plans know.",
                "Name one of docs/results: engine_*.json, ranks_*.json.",
            )
        found += compare(record, path.name, table)
    return found


def _sweep(name: str, question: "Question", svg: Path | None, *, as_json: bool) -> None:
    from llm_numba.bench.record import require_writable, write_text
    from llm_numba.cli import plan_tables
    from llm_numba.planner import packaged_table
    from llm_numba.planner.picture import draw
    from llm_numba.planner.sweep import assumptions, frontier, sweep

    if svg:
        require_writable(svg)
    table = packaged_table()
    points = list(sweep(question, table))
    title = f"{name} on {question.gpu.title}, context {question.context:,}"
    if not points:
        raise LLMNumbaError(
            f"{title}: no split fits.", "Lower the context, or take a GPU with more memory."
        )
    assumed = assumptions(question, table, frontier(points))
    plan_tables.show_sweep(title, points, assumed, as_json=as_json)
    if svg:
        write_text(svg, draw(points, title))
        notes().print(styled(f"Drawn: {svg}", "dim"), soft_wrap=True)
