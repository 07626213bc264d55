"""What pages on the labs show, read from the labs themselves and from runs of their grader.

::

    ```{labs-table}
    ```
    ```{lab-steps} 1
    ```
    ```{lab-session} 1 wrong/no_guard.py
    ```
    ```{labs-races}
    ```

The first has a row a lab, the second a row a check. The third is what ``make lab`` prints for a
file of the lab's folder. The last is from the record of ``llm-numba bench labs``.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_records import find, left_out, load, on_gpu
from docutils import nodes
from rich.console import Console
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[2] / "tutorials" / "labs"))

from grader.children import Children
from grader.lab import Lab, find_labs
from grader.mistakes import planted
from grader.races import SOLUTION, raced_versions, races_of
from grader.run import run_lab
from grader.terminal import show_lab

RECORDS = "labs_*.json"
_WIDTH = 88


class LabsTable(SphinxDirective):
    """All labs: a row each, linked to its page."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        lines = ["| lab | goal | steps | points | needs |", "| --- | --- | --: | --: | --- |"]
        for lab in find_labs("all"):
            _depend(self, lab)
            page = f"[{lab.number}. {lab.title}]({lab.folder.name}.md)"
            lines.append(f"| {page} | {lab.goal} | {len(lab.steps)} | {lab.points} | {lab.needs} |")
        return self.parse_text_to_nodes("\n".join(lines))


class LabSteps(SphinxDirective):
    """The checks of one lab, and what each is worth."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        (lab,) = find_labs(self.arguments[0])
        _depend(self, lab)
        lines = ["| step | checks | points |", "| --- | --- | --: |"]
        for step in lab.steps:
            for check in step.checks:
                first = check is step.checks[0]
                name = f"{step.number}. {step.title}" if first else ""
                points = "on a GPU" if check.gpu else check.points
                lines.append(f"| {name} | {check.title} | {points} |")
        return self.parse_text_to_nodes("\n".join(lines))


class LabSession(SphinxDirective):
    """The terminal after ``make lab``."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Run the checks on a planted mistake, and print into a literal block."""
        (lab,) = find_labs(self.arguments[0])
        _depend(self, lab)
        source = lab.folder / self.arguments[1]
        self.env.note_dependency(str(source))
        console = Console(file=io.StringIO(), width=_WIDTH, highlight=False)
        # As a student has it: the file is the exercise, and it is here.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            path = Path("exercise.py")
            path.write_text(planted(source))
            with Children() as children:
                show_lab(console, run_lab(lab, path, children, stop=True))
        text = console.file.getvalue().strip("\n")
        lines = [line.rstrip() for line in text.splitlines()]
        block = nodes.literal_block("", "\n".join(lines), language="text")
        block["classes"].append("prose")
        return [block]


class LabsRaces(SphinxDirective):
    """How solutions and slow versions did on a GPU, and what bound stands between them."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        if not find(self.env, RECORDS):
            return self.parse_text_to_nodes("*Not measured yet: `llm-numba bench labs` does.*")
        record = load(self.env, RECORDS)
        # The bounds of now; the record has those of its day.
        labs = {lab.number: lab for lab in find_labs("all")}
        bounds = {
            number: check.at_most for number, lab in labs.items() for _, check in races_of(lab)
        }
        lines = [
            "| lab, step | version | times ours | bound | |",
            "| --- | --- | --: | --: | --- |",
        ]
        for each in record["results"]:
            number, version = each["shape"]["lab"], each["shape"]["version"]
            _depend(self, labs[number])
            verdict = "passes" if version == SOLUTION else "rejected by its costs alone"
            if each["median"] > bounds[number]:
                verdict = "rejected by its time, too"
            cells = [f"{number}, {each['shape']['step']}", f"`{version}`", f"{each['median']:.2f}",
                     f"{bounds[number]:g}", verdict]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        missing = left_out(record, ("lab",))
        lines += ["", missing, "", _not_raced(record, labs), "", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def _not_raced(record: dict[str, Any], labs: dict[int, Lab]) -> str:
    """Name slow versions that are younger than the record."""
    raced = {(each["shape"]["lab"], each["shape"]["version"]) for each in record["results"]}
    younger = [
        f"`{name}` (lab {number})"
        for number, lab in labs.items()
        for name in raced_versions(lab)
        if (number, name) not in raced
    ]
    return f"Younger than this record, and not raced yet: {', '.join(younger)}." if younger else ""


def _depend(directive: SphinxDirective, lab: Lab) -> None:
    directive.env.note_dependency(str(lab.folder / "lab.py"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("labs-table", LabsTable)
    app.add_directive("lab-steps", LabSteps)
    app.add_directive("lab-session", LabSession)
    app.add_directive("labs-races", LabsRaces)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
