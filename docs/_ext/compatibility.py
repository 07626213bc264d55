"""What llm_numba asks of a machine, and what it was seen to run on.

::

    ```{compatible-packages}
    ```
    ```{compatible-machines}
    ```
    ```{compatible-capabilities}
    ```

Ranges are those of ``pyproject.toml``. What was tried is what the records in ``docs/results`` say
of the machines that made them.
"""

import json
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from bench_records import RESULTS
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.runtime.limits import LIMITS

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
# Extras that a user may want, in the order of the table; the others are for developers.
_EXTRAS = ("cu12", "cu13", "mpi", "hub", "ptx", "parity")
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[.*\])?\s*([^;\[]*)")
_CARDS = {
    (7, 5): "T4, RTX 2080", (8, 0): "A100", (8, 6): "RTX 3090, A10", (8, 7): "Jetson Orin",
    (8, 9): "RTX 4090, L4", (9, 0): "H100, H200", (10, 0): "B200", (10, 3): "B300",
    (12, 0): "RTX 5090",
}  # fmt: skip


def records() -> list[dict[str, Any]]:
    """Read all records that say what made them."""
    found = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
    return [record for record in found if "packages" in record.get("environment", {})]


def packages() -> list[str]:
    """Show each dependency with its range, and the versions that made records."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    wanted = {"": project["dependencies"]}
    wanted |= {name: project["optional-dependencies"][name] for name in _EXTRAS}
    seen = defaultdict(set)
    for record in records():
        for name, version in record["environment"]["packages"].items():
            seen[name].add(version)
    lines = ["| package | range | extra | with records |", "| --- | --- | --- | --- |"]
    for extra, requirements in wanted.items():
        for requirement in requirements:
            name, versions = _REQUIREMENT.match(requirement).groups()
            tried = ", ".join(sorted(seen[name])) if extra != "cu12" else ""
            asked = f"`{versions.strip()}`"
            lines.append(f"| {name} | {asked} | {extra and f'`{extra}`'} | {tried or '-'} |")
    return lines


def machines() -> list[str]:
    """Show each machine that made records."""
    counts: Counter[tuple[str, ...]] = Counter()
    for record in records():
        environment = record["environment"]
        gpus = environment.get("gpus") or []
        counts[
            ", ".join(sorted({gpu["name"] for gpu in gpus})) or "none",
            ", ".join(sorted({gpu["driver"] for gpu in gpus})) or "-",
            environment["device"]["name"],
            environment["python"],
            re.sub(r"-[\w.-]*-(x86_64|aarch64)-with-", r" on \1, ", environment["os"]),
        ] += 1
    lines = ["| GPU | driver | processor | Python | system | records |"]
    lines += ["| --- | --- | --- | --- | --- | --: |"]
    return lines + [f"| {' | '.join(row)} | {count} |" for row, count in sorted(counts.items())]


def capabilities() -> list[str]:
    """Show for each compute capability how far it was tried."""
    compiled: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for record in records():
        if record["benchmark"] == "resources":
            compiled.update(name for each in record["results"] for name in each["registers"])
        if record["benchmark"] == "gpu_tests":
            for gpu in record["environment"]["gpus"]:
                passed[gpu["compute_capability"]] += record["totals"]["passed"]
    lines = ["| capability | such as | kernels compiled and assembled | GPU tests passed |"]
    lines += ["| --- | --- | --: | --: |"]
    for capability in LIMITS:
        name = ".".join(map(str, capability))
        counts = [f"{count[name]:,}" if count[name] else "-" for count in (compiled, passed)]
        lines.append(f"| {name} | {_CARDS[capability]} | {' | '.join(counts)} |")
    return lines


class Table(SphinxDirective):
    """A table, made by a function."""

    make: ClassVar[Callable[[], list[str]]]

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        for path in (PROJECT, *RESULTS.glob("*.json")):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(type(self).make()))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for make in (packages, machines, capabilities):
        directive = type(make.__name__.title(), (Table,), {"make": staticmethod(make)})
        app.add_directive(f"compatible-{make.__name__}", directive)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
