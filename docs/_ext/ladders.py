"""What the steps of a ladder cost, from the ladder itself: counted while the site is built.

::

    ```{ladder-facts} transpose
    ```
    ```{ladder-costs} transpose
    :dtype: float16
    ```
    ```{ladder-picture} transpose
    The caption.
    ```
    ```{ladder-resources} transpose
    ```
    {cost}`transpose/tile max_bank_ways`
    {cost}`transpose/tile/float16 global_sectors`

Costs and pictures come from the simulator, by way of the microscope. Registers come from the record
that ``llm-numba bench resources`` writes. ``{cost}`` is one figure of one step, for prose, and
``{idea}`transpose/tile``` is what is new in it.
"""

import math
import shlex
from collections.abc import Callable
from functools import cache
from html import escape
from typing import Any, ClassVar

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"
import numpy as np
from bench_records import figure, load, origin
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

from llm_numba.kernels.ladder import Ladder
from llm_numba.microscope import Examination, View, describe, draw, examine, find_ladder
from llm_numba.simulator.costs import SECTOR

RESOURCES = "resources_*.json"
_LIMITS = {"memory": "memory", "compute": "arithmetic"}


@cache
def examination(name: str, dtype: str | None = None,
                steps: tuple[str, ...] = ()) -> Examination:  # fmt: skip
    """Simulate the steps of a ladder, once a build.

    A step whose results are wrong has no cost worth showing.
    """
    found = examine(name, None, dtype, steps)
    wrong = [view.name for view in found.views if view.agreement and not view.agreement.holds]
    if wrong:
        raise ExtensionError(f"{name}: {', '.join(wrong)} disagrees with the reference")
    return found


def note_sources(env: BuildEnvironment, ladder: Ladder) -> None:
    """Let a page be built anew when a kernel of its ladder changes."""
    for step in ladder.steps:
        for kernel in step.kernels:
            env.note_dependency(kernel.py_func.__code__.co_filename)


def steps_of(text: str) -> tuple[str, ...]:
    """Read ``tile, padded``."""
    return tuple(name.strip() for name in text.split(","))


options_of_examination = {
    "dtype": directives.unchanged_required,
    "steps": steps_of,
}


def examination_of(directive: SphinxDirective) -> Examination:
    """Return what the simulator counts for a directive's ladder and options."""
    options = directive.options
    return examination(directive.arguments[0], options.get("dtype"), options.get("steps", ()))


def sizes(ladder: Ladder, shape: tuple[int, ...]) -> str:
    """Write a shape with its axes: "M = 64, N = 64"."""
    return ", ".join(f"{a} = {n:,}" for a, n in zip(ladder.axes.split(), shape, strict=True))


# -- Figures of a step ---------------------------------------------------------------------------


def costs(view: View, fewest_bytes: int) -> dict[str, float]:
    """Return all that can be said of a step's cost, by name."""
    total = view.total
    known: dict[str, float] = {
        **{name: value for name, value in vars(total).items() if isinstance(value, int)},
        "barriers": sum(report.barriers for report in view.reports),
        "launches": len(view.launches),
        "threads": sum(math.prod((*report.grid, *report.block)) for report in view.reports),
        "global_bytes": SECTOR * total.global_sectors,
        "conflicts": total.shared_wavefronts - total.ideal_wavefronts,
        "shared_bytes": max((report.shared_bytes for report in view.reports), default=0),
    }
    if total.global_requests:
        known["sectors_per_request"] = total.global_sectors / total.global_requests
    if fewest_bytes:
        known["of_fewest"] = known["global_bytes"] / fewest_bytes
    return known


def count(value: float) -> str:
    """Write a figure; a whole one with all its digits."""
    return f"{value:,}" if isinstance(value, int) else figure(value)


class Cost(SphinxRole):
    """One figure of one step: ``LADDER/STEP[/DTYPE] NAME``, or a quotient of two such."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up, or divide."""
        values = [self._value(part.strip()) for part in self.text.split("÷")]
        value = values[0] if len(values) == 1 else values[0] / values[1]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return [nodes.Text(count(value))], []

    def _value(self, text: str) -> float:
        where, name = text.split()
        ladder, step, *dtype = where.split("/")
        note_sources(self.env, find_ladder(ladder))
        found = examination(ladder, *dtype)
        view = next((each for each in found.views if each.name == step), None)
        known = costs(view, found.fewest_bytes) if view else {}
        if name not in known:
            raise ExtensionError(f"{self.env.docname}: there is no cost {text!r}")
        return known[name]


class Idea(SphinxRole):
    """What is new in a step, in the ladder's own words: ``LADDER/STEP``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up."""
        name, step = self.text.split("/")
        ladder = find_ladder(name)
        note_sources(self.env, ladder)
        return [nodes.emphasis("", ladder.step(step).idea, classes=["idea"])], []


# -- Directives ----------------------------------------------------------------------------------


class _OfLadder(SphinxDirective):
    """A directive about a ladder at its example's shape and one storage format."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = options_of_examination

    def ladder(self) -> Ladder:
        """Return the ladder."""
        ladder = find_ladder(self.arguments[0])
        note_sources(self.env, ladder)
        return ladder

    def command(self, found: Examination) -> str:
        """Return what a reader types to see the same."""
        ladder = find_ladder(found.name)
        words = ["llm-numba microscope", found.name]
        if found.dtype != ladder.dtypes[0]:
            words.append(f"--dtype {found.dtype}")
        return " ".join(words)


class LadderFacts(_OfLadder):
    """What the operation must move and compute, whatever the kernel, and what bounds it."""

    def run(self) -> list[nodes.Node]:
        """Compute it at the example's shape."""
        ladder, rows = self.ladder(), []
        shape = ladder.example
        flops = ladder.flops(shape)
        for dtype in ladder.dtypes:
            moved = ladder.fewest_bytes(shape, np.dtype(dtype).itemsize)
            rows.append(f"| {dtype} | {moved:,} | {flops:,} | {figure(flops / moved)} |")
        lines = [
            f"| storage, {sizes(ladder, shape)} | fewest bytes | FLOPs | FLOPs a byte |",
            "| --- | --: | --: | --: |",
            *rows,
            "",
            f"Its ceiling is **{_LIMITS[ladder.ceiling]}**.",
        ]
        return self.parse_text_to_nodes("\n".join(lines))


# By heading; a column in which every step has the normal figure is left out.
_COLUMNS = {
    "launches": "launches",
    "requests": "global_requests",
    "sectors": "global_sectors",
    "a request": "sectors_per_request",
    "of fewest": "of_fewest",
    "shared requests": "shared_requests",
    "wavefronts": "shared_wavefronts",
    "worst ways": "max_bank_ways",
    "barriers": "barriers",
    "splits": "divergent",
}
_ALWAYS = {"global_requests", "global_sectors", "sectors_per_request", "of_fewest"}
_NORMAL = {"launches": 1}


class LadderCosts(_OfLadder):
    """The steps side by side, a row each."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        ladder, found = self.ladder(), examination_of(self)
        rows = [(view, costs(view, found.fewest_bytes)) for view in found.views]
        columns = [(heading, name) for heading, name in _COLUMNS.items()
                   if name in _ALWAYS or any(map(_above_normal(name), rows))]  # fmt: skip
        lines = [
            f"| step | {' | '.join(heading for heading, _ in columns)} |",
            f"| --- {'| --: ' * len(columns)}|",
        ]
        for view, known in rows:
            cells = [_cell(name, known.get(name, 0)) for _, name in columns]
            lines.append(f"| `{view.name}` | {' | '.join(cells)} |")
        lines += [
            "",
            "{.provenance}",
            f"{sizes(ladder, found.shape)}, {found.dtype}; counted by the simulator while this "
            f"page was built: `{self.command(found)}`.",
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def _above_normal(name: str) -> Callable[[tuple[View, dict[str, float]]], bool]:
    return lambda row: row[1].get(name, 0) > _NORMAL.get(name, 0)


def _cell(name: str, value: float) -> str:
    if name == "of_fewest":
        return f"{figure(value)} x"
    return count(value) if value else "-"


class LadderPicture(_OfLadder):
    """The microscope's picture, in the page's colours; the caption is the content."""

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        self.ladder()
        found = examination_of(self)
        caption = escape(" ".join(self.content)) if self.content else escape(found.title)
        html = (
            f'<figure class="drawing microscope"><div>{draw(found, themed=True)}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
        picture = nodes.raw("", html, format="html")
        picture["alt"] = describe(found)
        return [picture]


class LadderResources(_OfLadder):
    """Registers, shared memory and spills of each step's kernels, by compute capability."""

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        ladder = self.ladder()
        record = load(self.env, RESOURCES)
        dtype = self.options.get("dtype", ladder.dtypes[0])
        results = [each for each in record["results"]
                   if (each["ladder"], each["dtype"]) == (ladder.name, dtype)]  # fmt: skip
        if {each["step"] for each in results} != {step.name for step in ladder.steps}:
            raise ExtensionError(
                f"{record['file']} has not the steps of {ladder.name}; write it anew: "
                "`llm-numba bench resources`"
            )
        # Those of the record that the ladder is for; some steps are for one GPU's own instructions.
        capabilities = list(dict.fromkeys(name for each in results for name in each["registers"]))
        lines = [
            f"| step | kernel | {' | '.join(capabilities)} | shared bytes | spilled bytes |",
            f"| --- | --- | {'--: | ' * (len(capabilities) + 2)}",
        ]
        for each in results:
            cells = [str(each["registers"].get(name, "-")) for name in capabilities]
            cells += [f"{each['shared_bytes']:,}", f"{max(each['spill_bytes'].values()):,}"]
            lines.append(f"| `{each['step']}` | `{each['kernel']}` | {' | '.join(cells)} |")
        versions = record["environment"]["packages"]
        lines += [
            "",
            "{.provenance}",
            f"Registers of a thread by compute capability, {dtype}. "
            f"`{shlex.join(record['command'])}` with numba-cuda {versions['numba-cuda']}, NVVM "
            f"{versions['nvidia-nvvm']} and its ptxas; {origin(record)}",
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the role."""
    app.add_directive("ladder-facts", LadderFacts)
    app.add_directive("ladder-costs", LadderCosts)
    app.add_directive("ladder-picture", LadderPicture)
    app.add_directive("ladder-resources", LadderResources)
    app.add_role("cost", Cost())
    app.add_role("idea", Idea())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
