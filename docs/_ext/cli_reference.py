"""``cli-reference``: every command and option, read from the Typer application itself."""

import inspect
from types import NoneType
from typing import Any, get_args

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

PROGRAM = "llm-numba"


def describe(path: str, command: Any, depth: int) -> list[str]:
    """Return Markdown for a command and the commands below it.

    Parameters
    ----------
    path : str
        How the command is called, ``llm-numba bench``.
    command : click.Command
    depth : int
        Level of its heading.
    """
    commands = getattr(command, "commands", {})
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = [path, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)]
    usage += ["COMMAND ..."] if commands else []
    kinds = inspect.signature(command.callback).parameters if command.callback else {}
    lines = [f"{'#' * depth} {path}", "", _paragraphs(command.help), ""]
    lines += ["```console", f"$ {' '.join(usage)}", "```", ""]
    panels: dict[str, list[Any]] = {}
    for parameter in [*arguments, *options]:
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(parameter)
    for panel, parameters in panels.items():
        rows = [_row(p, kinds[p.name].annotation if p.name in kinds else None) for p in parameters]
        width = 3 if any(row[2] for row in rows) else 2
        titles = [panel or "Argument or option", "Meaning", "Default"]
        for row in [titles, ["---"] * 3, *rows]:
            lines.append(f"| {' | '.join(row[:width])} |")
        lines.append("")
    for name, child in commands.items():
        lines += describe(f"{path} {name}", child, depth + 1)
    return lines


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = f"{name} ..." if parameter.nargs != 1 else name
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any, annotation: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        names += "" if parameter.is_flag else f" {_kind(annotation)}"
    default = parameter.default
    shown = "" if default in (None, False) or parameter.is_eager else f"`{default}`"
    return names, _escape(parameter.help), shown


def _kind(annotation: Any) -> str:
    """Return the name of what an option takes: ``Annotated[list[int] | None, ...]`` is INT."""
    while kinds := [kind for kind in get_args(annotation) if kind is not NoneType]:
        annotation = kinds[0]
    return {str: "TEXT"}.get(annotation, getattr(annotation, "__name__", "").upper())


def _paragraphs(text: str | None) -> str:
    return _escape("\n".join(line.strip() for line in (text or "").splitlines()))


def _escape(text: str | None) -> str:
    return (text or "").replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")


class CliReference(SphinxDirective):
    """Write one section for each command."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        command = get_command(self.application())
        text = "\n".join(
            line
            for name, child in command.commands.items()
            for line in describe(f"{PROGRAM} {name}", child, 2)
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)

    @staticmethod
    def application() -> Any:
        """Import the application when it is needed, not when the extension is."""
        from llm_numba.cli.app import app

        return app


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("cli-reference", CliReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
