"""The list of commands, and what all of them do on a user's mistake."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import llm_numba
from llm_numba.cli.bench import bench
from llm_numba.cli.cache import cache
from llm_numba.cli.chat import chat
from llm_numba.cli.console import report as report_error
from llm_numba.cli.demo import demo
from llm_numba.cli.doctor import doctor
from llm_numba.cli.evaluate import evaluate
from llm_numba.cli.generate import generate
from llm_numba.cli.microscope import microscope
from llm_numba.cli.models import models
from llm_numba.cli.plan import plan
from llm_numba.cli.profile import profile
from llm_numba.cli.report import report
from llm_numba.cli.shard import shard
from llm_numba.cli.tune import tune
from llm_numba.errors import LLMNumbaError


class Commands(TyperGroup):
    """Commands that answer a user's mistake with its cause and remedy, and exit code 2."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except LLMNumbaError as error:
            from llm_numba.parallel import end_world

            # Of several ranks one tells it, and takes the others along.
            end_world(error)
            report_error(error)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    # A traceback is for the people who mend it: the plain one says everything.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llm-numba {llm_numba.__version__}")
        raise typer.Exit


@app.callback()
def llm_numba_command(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """LLM inference that a person can read, from the prompt to the next token."""


app.command()(demo)
app.command()(generate)
app.command()(chat)
app.command()(models)
app.command()(shard)
app.command()(doctor)
app.command()(cache)
app.command()(microscope)
app.command()(profile)
app.command()(report)
app.command()(plan)
app.command()(tune)
app.command("eval")(evaluate)
app.add_typer(bench)
