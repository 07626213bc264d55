"""What the simulator was measured against: Numba's own simulator, a GPU's counters and results.

::

    ```{simulator-speed} simulator_*.json
    ```
    ```{simulator-counters} simulator_counters_*.json
    ```
    ```{simulator-deviations} simulator_counters_*.json
    ```
    ```{gpu-tests} gpu_tests_*.json
    ```
    ```{sanitizer} sanitizer_*.json
    ```
    {counters}`simulator_counters_*.json equal`
"""

from typing import Any

from bench_records import figure, load, on_gpu, provenance
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

_COUNTERS = {
    "global_requests": "global requests",
    "global_sectors": "sectors",
    "shared_requests": "shared requests",
    "shared_wavefronts": "wavefronts",
    "divergent_branches": "divergent branches",
}


class SimulatorSpeed(SphinxDirective):
    """A row for each kernel: both simulators' times, and how often ours fits into Numba's."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        results = {each["name"]: each for each in record["results"]}
        cases = [name.partition("/")[2] for name in results if name.startswith("numba_again/")]
        lines = [
            "| kernel | Numba's simulator | ours | times faster | explaining | times faster |",
            f"| --- {'| --: ' * 5}|",
        ]
        for case in cases:
            numba, ours, explained, plain_ratio, explained_ratio = (
                results[f"{kind}/{case}"]["median"]
                for kind in ("numba_again", "ours_again", "ours_explained", "speedup",
                             "speedup_explained")
            )  # fmt: skip
            what = results[f"numba_again/{case}"]["what"].rpartition(":")[0]
            lines.append(
                f"| {what} | {figure(numba)} ms | {figure(ours)} ms | {figure(plain_ratio)} "
                f"| {figure(explained)} ms | {figure(explained_ratio)} |"
            )
        lines += ["", "{.provenance}", provenance(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class SimulatorCounters(SphinxDirective):
    """A row for each launch: what was simulated, and behind a bar what the hardware counted."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        lines = [
            f"| launch | {' | '.join(_COUNTERS.values())} |",
            f"| --- {'| --: ' * len(_COUNTERS)}|",
        ]
        for result in record["results"]:
            cells = [_both(result["counters"][name]) for name in _COUNTERS]
            lines.append(f"| `{result['name']}` | {' | '.join(cells)} |")
        lines += ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


def _both(entry: dict[str, Any]) -> str:
    """Write equal figures once."""
    ours, theirs = entry["simulator"], entry["hardware"]
    if theirs is None:
        return f"{ours:,} : ?"
    return f"{ours:,}" if ours == theirs else f"**{ours:,} : {theirs:,}**"


class SimulatorDeviations(SphinxDirective):
    """A row for each reason why the two differ, with the launches that it holds for."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        reasons: dict[tuple[str, str], list[str]] = {}
        for result in record["results"]:
            for counter, entry in result["counters"].items():
                if entry["explanation"]:
                    reasons.setdefault((counter, entry["explanation"]), []).append(result["name"])
        lines = [
            "| counter | launches | why the hardware counts otherwise |",
            "| --- | --- | --- |",
        ]
        for (counter, why), names in reasons.items():
            where = ", ".join(f"`{name}`" for name in names)
            lines.append(f"| {_COUNTERS[counter]} | {where} | {why.strip()} |")
        return self.parse_text_to_nodes("\n".join(lines))


_SOUGHT = {
    "memcheck": "accesses outside of an allocation, or misaligned",
    "racecheck": "hazards in shared memory",
    "initcheck": "reads of memory that nobody wrote",
    "synccheck": "barriers that not all threads reach",
}


class Sanitizer(SphinxDirective):
    """A row for each tool of compute-sanitizer: what it looks for, and what it found."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        lines = [
            "| tool | looks for | passed | failed | findings |",
            f"| --- | --- {'| --: ' * 3}|",
        ]
        for run in record["results"]:
            passed, failed = run["tests"]["passed"], run["tests"]["failed"] + run["tests"]["errors"]
            counts = f"{passed:,} | {failed:,} | {run['findings']:,}"
            lines.append(f"| `{run['name']}` | {_SOUGHT[run['name']]} | {counts} |")
        lines += ["", "{.provenance}", on_gpu(record)]
        return self.parse_text_to_nodes("\n".join(lines))


class Counters(SphinxRole):
    """How many figures are equal, explained, unexplained or absent; or how many there are."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look it up: ``FILE KIND``."""
        pattern, kind = self.text.split()
        record = load(self.env, pattern)
        known = {
            **record["summary"],
            "launches": len(record["results"]),
            "figures": sum(record["summary"].values()) - record["summary"]["absent"],
        }
        if kind not in known:
            raise ExtensionError(f"{record['file']} has no {kind!r}")
        return [nodes.Text(f"{known[kind]:,}")], []


class GPUTests(SphinxDirective):
    """A row for each file of tests that ran on a GPU, and their sums."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the generated Markdown in place."""
        record = load(self.env, self.arguments[0])
        lines = ["| tests | passed | failed | skipped |", f"| --- {'| --: ' * 3}|"]
        sums = {"name": "all", **record["totals"]}
        for row in [each for each in record["results"] if each["passed"] or each["failed"]] + [
            sums
        ]:
            failed = row["failed"] + row["errors"]
            lines.append(
                f"| `{row['name']}` | {row['passed']:,} | {failed:,} | {row['skipped']:,} |"
            )
        settings = record["settings"]["tests"]
        lines += ["", "{.provenance}", f"`{settings}`; {on_gpu(record)}"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the role."""
    app.add_directive("simulator-speed", SimulatorSpeed)
    app.add_directive("simulator-counters", SimulatorCounters)
    app.add_directive("simulator-deviations", SimulatorDeviations)
    app.add_directive("sanitizer", Sanitizer)
    app.add_directive("gpu-tests", GPUTests)
    app.add_role("counters", Counters())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
