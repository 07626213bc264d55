"""``step-profile``: the picture and the table of a profile, from what ``llm-numba profile`` wrote.

::

    ```{step-profile} llama-3.2-1b decode/batch=1/context=512
    ```

Where there is no record yet, it says which command writes it. The second argument is a pattern.
"""

from fnmatch import fnmatch
from typing import Any

from bench_records import find, load, on_gpu
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llm_numba.bench.profile import Profile
from llm_numba.bench.profile_picture import draw, duration
from llm_numba.bench.profile_report import from_json, rows_of


class StepProfile(SphinxDirective):
    """A profile of one step."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Draw it, and set its tables beneath."""
        model, name = self.arguments
        pattern = f"profile_*_{model}.json"
        if not find(self.env, pattern):
            words = f"Not measured yet: `llm-numba profile -m random:{model} --out FILE` does."
            return self.parse_text_to_nodes(f"*{words}*")
        record = load(self.env, pattern)
        entries = [each for each in record["results"] if fnmatch(each["name"], name)]
        if not entries:
            return self.parse_text_to_nodes("*Not in the record.*")
        profile, speed = from_json(entries[0]), record["settings"]["bytes_per_second"]
        html = f'<figure class="drawing"><div>{draw(profile, speed, themed=True)}</div></figure>'
        lines = [*parts_table(profile, speed), "", *operations_table(profile, speed)]
        lines += ["", "{.provenance}", on_gpu(record)]
        return [nodes.raw("", html, format="html"), *self.parse_text_to_nodes("\n".join(lines))]


def parts_table(profile: Profile, speed: float) -> list[str]:
    """Return the parts of a step in Markdown."""
    parts = profile.parts(speed)
    whole = sum(parts.values())
    lines = ["| part of the step | time | share |", "| --- | --: | --: |"]
    for name, part in parts.items():
        lines.append(f"| {name} | {duration(part)} | {100 * part / whole:.1f} % |")
    return [*lines, f"| together | {duration(whole)} | |"]


def operations_table(profile: Profile, speed: float) -> list[str]:
    """Return the operations of a step in Markdown, all layers' together."""
    headings = ["operation", "kernels", "n", "each", "all", "bytes each", "of the copy"]
    lines = [f"| {' | '.join(headings)} |", "| --- | --- " + "| --: " * 5 + "|"]
    for row in rows_of(profile):
        kernels = ", ".join(f"`{kernel}`" for kernel in row.kernels)
        share = 100 * row.bytes_per_second / speed
        lines.append(
            f"| {row.label} | {kernels} | {row.count} | {duration(row.seconds / row.count)} "
            f"| {duration(row.seconds)} | {size(row.traffic.num_bytes / row.count)} "
            f"| {share:.0f} % |"
        )
    return lines


def size(num_bytes: float) -> str:
    """Return a number of bytes with three digits, in the unit that suits it."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if num_bytes >= bytes_each:
            return f"{num_bytes / bytes_each:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("step-profile", StepProfile)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
