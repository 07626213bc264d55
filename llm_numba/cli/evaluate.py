"""``llm-numba eval``: how well a model answers questions about stories it has never seen."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from llm_numba.cli.console import notes, styled, tables
from llm_numba.cli.options import EngineOptions, ModelOptions, RankOptions, takes_groups
from llm_numba.errors import LLMNumbaError

if TYPE_CHECKING:
    from llm_numba.engine import LLM
    from llm_numba.train.recall import PairedDifference, RecallResult


@takes_groups
def evaluate(
    *,
    stories: Annotated[int, Option(min=1, help="How many stories, a question each.")] = 5000,
    seed: Annotated[int, Option(min=0, help="Another seed, other stories.")] = 0,
    batch_size: Annotated[int, Option(min=1, help="Questions answered together.")] = 32,
    run_on: Annotated[
        bool,
        Option("--run-on", help="Write on behind each answer: the same answers, and more work."),
    ] = False,
    out: Annotated[
        Path | None, Option(help="Write the answers' outcome, story by story, as JSON.")
    ] = None,
    compare: Annotated[
        Path | None, Option(help="Compare with such a file, story by story.")
    ] = None,
    commit: Annotated[
        str | None, Option(help="What the checkout holds, for a copy of it without git.")
    ] = None,
    model: ModelOptions,
    engine: EngineOptions,
    ranks: RankOptions,
) -> None:
    """Measure recall: questions about held-out stories, answered to the letter or not.

    Two results of the same stories, of another device or number format for example, can be
    compared with --out and --compare.
    """
    from llm_numba.bench.record import provenance, require_writable, write_record
    from llm_numba.train.recall import paired_difference

    arguments = engine.arguments(max_num_seqs=max(batch_size, 64))
    with ranks.join() as mesh:
        if not mesh.is_leader:
            model.load(mesh=mesh, **arguments).follow()
            return
        other = None if compare is None else read_result(compare, stories, seed)
        if out is not None:
            require_writable(out)
        with model.load(mesh=mesh, **arguments) as llm:
            result = ask(llm, stories, seed, batch_size, run_on)
        difference = None if other is None else paired_difference(other, result)
        if out is not None:
            settings = {
                "model": llm.model_dir.name,
                "device": llm.device,
                "dtype": str(llm.dtype),
                "stories": stories,
                "batch_size": batch_size,
                "run_on": run_on,
                "tp": ranks.tp,
                "pp": ranks.pp,
                "engine": engine.arguments(
                    num_blocks=model.num_blocks, block_size=model.block_size
                ),
            }
            record = provenance("eval", settings, commit) | result.to_json()
            record["preemptions"] = llm.stats().num_preemptions
            if difference is not None:
                record["compared"] = {"with": compare.name, **asdict(difference)}
            write_record(out, record)
        show(result)
        if difference is not None:
            show_difference(difference, compare)


def ask(
    llm: "LLM", stories: int, seed: int, batch_size: int, run_on: bool = False
) -> "RecallResult":
    """Evaluate with a progress bar on stderr, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from llm_numba.train.recall import evaluate_recall

    console = notes()
    columns = ("Asking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=stories)
        return evaluate_recall(
            llm,
            stories,
            seed,
            batch_size,
            run_on,
            progress=lambda done, total: bar.update(task, completed=done),
        )


def read_result(path: Path, stories: int, seed: int) -> "RecallResult":
    """Read what ``--out`` wrote.

    Parameters
    ----------
    path : Path
        The file.
    stories, seed : int
        What it must be about, to be compared.

    Raises
    ------
    LLMNumbaError
        If it cannot be read, or is about other stories.
    """
    from llm_numba.train.recall import RecallResult

    try:
        result = RecallResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as failure:
        raise LLMNumbaError(
            f"{path} cannot be read: {failure}.", "Write one with: llm-numba eval --out FILE."
        ) from failure
    except (LookupError, TypeError, AttributeError) as failure:
        raise LLMNumbaError(
            f"{path} holds JSON that is not the outcome of an evaluation.",
            "Write one with: llm-numba eval --out FILE.",
        ) from failure
    if (result.num_stories, result.seed) != (stories, seed):
        raise LLMNumbaError(
            f"{path} is about {result.num_stories} stories of seed {result.seed}, not"
            f" {stories} of seed {seed}.",
            f"Give --stories {result.num_stories} --seed {result.seed}.",
        )
    return result


def show(result: "RecallResult") -> None:
    """Print the accuracy by kind of question and over all."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Question")
    for heading in ("Right", "Asked", "Accuracy"):
        table.add_column(heading, justify="right")
    for kind, (right, asked) in result.count_by_kind.items():
        table.add_row(styled(kind), f"{right:,}", f"{asked:,}", f"{right / asked:.2%}")
    right = sum(result.correct)
    accuracy = f"{result.accuracy:.2%}"
    table.add_row("all", f"{right:,}", f"{result.num_stories:,}", accuracy, style="bold")
    tables().print(table)


def show_difference(difference: "PairedDifference", path: Path | None) -> None:
    """Print a paired comparison."""
    only = (
        f"{difference.only_second:,} right here only, {difference.only_first:,} right there only,"
        f" {difference.other_words:,} in other words"
    )
    tables().print(
        styled(
            f"\nCompared with {path}: {difference.points:+.2f} percentage points; {only}"
            f" (McNemar's exact test: p = {difference.p_value:.3g})"
        ),
        soft_wrap=True,
    )
