"""``llm-numba bench counters``: our counts of requests and sectors against the hardware's.

Each launch of :mod:`.counter_cases` runs once in the simulator, and once on a GPU under Nsight
Compute. The simulator counts what the source asks for, line by line; the hardware counts what the
compiler made of it. Where the two differ, the record says why, or that nobody knows yet. ::

    python -m llm_numba.bench.counters        launches all cases on the GPU: what ncu runs
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llm_numba.bench import ncu
from llm_numba.bench.counter_cases import Case, cases
from llm_numba.bench.counter_explanations import UNEXPLAINED, explain
from llm_numba.bench.environment import checkout, git_state
from llm_numba.bench.record import provenance, read_text, write_record
from llm_numba.runtime import Launch, kernel_view, launch_all


@dataclass(frozen=True)
class Counter:
    """A figure that both sides have.

    Attributes
    ----------
    name : str
    alternatives : tuple of tuple of str
        Metrics to add up; of the first alternative that ncu has all of.
    """

    name: str
    alternatives: tuple[tuple[str, ...], ...]

    def hardware(self, metrics: Mapping[str, float | None]) -> int | None:
        """Return the hardware's figure, or None where metrics for it are absent."""
        for names in self.alternatives:
            values = [metrics.get(name) for name in names]
            if None not in values:
                return round(sum(values))
        return None


def _each(metric: str, *kinds: str) -> tuple[str, ...]:
    return tuple(f"{metric}_{kind}.sum" for kind in kinds)


def _global(what: str) -> tuple[tuple[str, ...], ...]:
    metric = f"l1tex__t_{what}_pipe_lsu_mem_global_op"
    # Atomics whose result nobody wants are reductions: "red". No case has others.
    return (_each(metric, "ld", "st", "red", "atom"), _each(metric, "ld", "st", "red"))


# The counts of `smsp__sass_*` are taken instruction by instruction. Those of `l1tex__data_*` are
# taken at the banks, where other traffic may come between, and stand in where ncu lacks the first.
_INSTRUCTIONS = "smsp__inst_executed_op_shared"
_WAVEFRONTS = "data_pipe_lsu_wavefronts_mem_shared"
COUNTERS = (
    Counter("global_requests", _global("requests")),
    Counter("global_sectors", _global("sectors")),
    Counter(
        "shared_requests",
        (("smsp__sass_inst_executed_op_shared.sum",), _each(_INSTRUCTIONS, "ld", "st", "atom")),
    ),
    Counter(
        "shared_wavefronts",
        (
            _each(f"smsp__sass_l1tex_{_WAVEFRONTS}_op", "ld", "st", "atom"),
            _each(f"l1tex__{_WAVEFRONTS}_op", "ld", "st", "atom"),
        ),
    ),
    Counter("divergent_branches", (("smsp__sass_branch_targets_threads_divergent.sum",),)),
)

# Beside those that are compared, for whoever looks for the reason of a difference.
_MORE = (
    f"l1tex__{_WAVEFRONTS}.sum",
    "smsp__inst_executed.sum",
    *_each("smsp__inst_executed_op_local", "ld", "st"),
)
# What `--keep` leaves in its directory.
TABLE, ORIGIN = "ncu.csv", "origin.json"

METRICS = tuple(
    dict.fromkeys(
        [
            *(name for counter in COUNTERS for names in counter.alternatives for name in names),
            *_MORE,
        ]
    )
)


def simulated(launch: Launch) -> dict[str, int]:
    """Run a launch in the simulator and return its counters."""
    from llm_numba.simulator import simulate

    args = [np.asarray(kernel_view(a)) if isinstance(a, np.ndarray) else a for a in launch.args]
    report = simulate(launch.kernel, launch.grid, launch.block, tuple(args), launch.shared_bytes)
    return {
        "global_requests": report.global_requests,
        "global_sectors": report.global_sectors,
        "shared_requests": report.shared_requests,
        "shared_wavefronts": report.shared_wavefronts,
        "divergent_branches": report.divergent,
    }


def profile_cases(program: str | None, directory: Path) -> None:
    """Launch all cases on the GPU under Nsight Compute.

    Parameters
    ----------
    program : str or None
        Path of ncu; None looks for it.
    directory : Path
        Where ncu's table goes, as ``ncu.csv``.
    """
    command = [sys.executable, "-m", "llm_numba.bench.counters"]
    ncu.profile_known(program, command, METRICS, directory / TABLE)


def paired_metrics(table: str) -> list[dict[str, float | None]]:
    """Return the metrics of each launch, in the order of the cases.

    Parameters
    ----------
    table : str
        As ncu wrote it.
    """
    expected = [
        (launch.kernel.py_func.__name__, launch.grid, launch.block)
        for _, _, launch in named_launches("sim")
    ]
    return [launch.metrics for launch in ncu.pair(expected, ncu.parse(table))]


def compare(hardware: Iterable[Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """Simulate all cases and set their counters beside the hardware's.

    Parameters
    ----------
    hardware : iterable of mapping
        Metrics of each launch, as :func:`paired_metrics` returns them.

    Returns
    -------
    list of dict
        A result for each launch: ``name``, ``kernel``, ``shape``, ``counters`` (by name:
        ``simulator``, ``hardware``, ``difference``, ``explanation``) and ``metrics``.
    """
    results = []
    for (name, case, launch), metrics in zip(named_launches("sim"), hardware, strict=True):
        ours = simulated(launch)
        results.append(
            {
                "name": name,
                "kernel": launch.kernel.py_func.__name__,
                "shape": case.shape | {"grid": launch.grid, "block": launch.block},
                "counters": {
                    counter.name: _entry(
                        name, counter.name, ours[counter.name], counter.hardware(metrics)
                    )
                    for counter in COUNTERS
                },
                # ncu adds a hundred facts about the device, which the environment has.
                "metrics": {name: metrics[name] for name in METRICS if name in metrics},
            }
        )
    return results


def _entry(case: str, counter: str, ours: int, theirs: int | None) -> dict[str, Any]:
    if theirs is None:
        return {"simulator": ours, "hardware": None, "difference": None, "explanation": None}
    return {
        "simulator": ours,
        "hardware": theirs,
        "difference": ours - theirs,
        "explanation": explain(case, counter, ours, theirs),
    }


def summarize(results: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count how many figures are equal, explained, unexplained, and absent on the hardware."""
    summary = dict.fromkeys(("equal", "explained", "unexplained", "absent"), 0)
    for result in results:
        for entry in result["counters"].values():
            summary[verdict(entry)] += 1
    return summary


def verdict(entry: Mapping[str, Any]) -> str:
    """Return "equal", "explained", "unexplained" or "absent"."""
    if entry["hardware"] is None:
        return "absent"
    if entry["difference"] == 0:
        return "equal"
    return "unexplained" if entry["explanation"] == UNEXPLAINED else "explained"


def new_record(
    program: str | None = None, keep: Path | None = None, commit: str | None = None
) -> dict[str, Any]:
    """Profile on this machine's GPU, simulate, and make the record.

    Parameters
    ----------
    program : str, optional
        Path of ncu.
    keep : Path, optional
        Directory that ncu's table and the record's origin stay in, for :func:`kept_record`.
    commit : str, optional
        What runs, for a copy of the checkout without git.
    """
    with TemporaryDirectory() as folder:
        directory = keep or Path(folder)
        origin = provenance("simulator_counters", {"metrics": list(METRICS)}, commit)
        write_record(directory / ORIGIN, origin)
        profile_cases(program, directory)
        return kept_record(directory)


def kept_record(directory: Path) -> dict[str, Any]:
    """Make the record of a run on a GPU from what it left behind.

    Parameters
    ----------
    directory : Path
        As :func:`new_record` kept it.

    Raises
    ------
    LLMNumbaError
        If something is missing there.
    """
    origin, table = (read_text(directory / name) for name in (ORIGIN, TABLE))
    results = compare(paired_metrics(table))
    return json.loads(origin) | {"summary": summarize(results), "results": results}


def renewed_record(record: dict[str, Any]) -> dict[str, Any]:
    """Simulate anew against the hardware's figures of an earlier record.

    For a simulator, or an explanation, that has changed since; command, date and environment stay
    those of the GPU's run.
    """
    results = compare(result["metrics"] for result in record["results"])
    simulated_at = {"simulated_at": git_state(checkout())}
    return record | simulated_at | {"summary": summarize(results), "results": results}


def named_launches(device: str) -> Iterator[tuple[str, Case, Launch]]:
    """Make the launches of all cases, each with a name of its own."""
    for case in cases():
        launches = case.launches(device)
        for launch in launches:
            kernel = launch.kernel.py_func.__name__
            yield case.name if len(launches) == 1 else f"{case.name}/{kernel}", case, launch


if __name__ == "__main__":
    import cupy

    launch_all(launch for _, _, launch in named_launches("cuda"))
    cupy.cuda.runtime.deviceSynchronize()
