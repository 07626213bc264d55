"""``llm-numba tune``: measures the choices of a kernel's launch and keeps the best.

See :mod:`llm_numba.kernels.tuning`. A candidate must first give what the rule's choice gives, to
rounding. Then all are timed on the same operands, which take turns so that no cache holds them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_numba.bench.gpu_timing import GPUTimer, capture_launches
from llm_numba.bench.kernel_points import allowed_error, relative_error
from llm_numba.bench.kernels import device_sets, poison
from llm_numba.bench.record import provenance, write_text
from llm_numba.errors import LLMNumbaError
from llm_numba.kernels.tuning import Shape, Tunable, all_tunables, forget, read_table
from llm_numba.runtime import launch_all, to_host


@dataclass(frozen=True)
class Tuned:
    """What was found for one shape.

    Attributes
    ----------
    key : str
        Of the table's entry.
    seconds : dict of config to float
        Median of each candidate.
    rule : NamedTuple
        What would be launched without a table.
    """

    key: str
    seconds: dict[NamedTuple, float]
    rule: NamedTuple

    @property
    def best(self) -> NamedTuple:
        """The fastest; the rule's, if nothing is faster by more than the noise of a hundredth."""
        fastest = min(self.seconds, key=self.seconds.__getitem__)
        saved = self.seconds[self.rule] - self.seconds[fastest]
        return fastest if saved > 0.01 * self.seconds[self.rule] else self.rule

    def entry(self) -> dict[str, Any]:
        """Return the entry as a JSON object."""
        return {
            "config": self.best._asdict(),
            "seconds": self.seconds[self.best],
            "rule": self.rule._asdict(),
            "rule_seconds": self.seconds[self.rule],
        }


def chosen_tunables(names: Sequence[str]) -> list[Tunable]:
    """Return the tunables of some names; all for none.

    Raises
    ------
    LLMNumbaError
        If there is none of a name.
    """
    known = all_tunables()
    for name in names:
        if name not in known:
            raise LLMNumbaError(
                f"There is nothing to tune in {name!r}.", f"Choose from: {', '.join(known)}."
            )
    return [known[name] for name in names or known]


def tune(
    tunables: Iterable[Tunable],
    shapes: Sequence[Shape],
    dtypes: Sequence[str],
    timer: GPUTimer,
    device: str | None = None,
) -> Iterator[Tuned]:
    """Measure all candidates.

    Parameters
    ----------
    tunables : iterable of Tunable
    shapes : sequence of tuple of int
        None for each tunable's own.
    dtypes : sequence of str
        Storage formats.
    timer : GPUTimer
    device : {"cuda", "sim"}, optional

    Yields
    ------
    Tuned

    Raises
    ------
    LLMNumbaError
        If a candidate gives something else than the rule's choice does, or a shape has not the
        number of axes that the operation has.
    """
    for tunable in tunables:
        axes = tunable.ladder.axes
        for shape in shapes or tunable.shapes:
            if len(shape) != len(axes.split()):
                raise LLMNumbaError(
                    f"{tunable.name} has the axes {axes}, and the shape {shape} has {len(shape)}.",
                    "Give as many lengths, separated by commas.",
                )
            for dtype in dtypes:
                yield _tuned(tunable, shape, dtype, timer, device)


def _tuned(
    tunable: Tunable, shape: Shape, dtype: str, timer: GPUTimer, device: str | None
) -> Tuned:
    operands = tunable.ladder.operands(shape, np.dtype(dtype), 0)
    sets = device_sets(operands, device)
    # What the outputs are called, the reference knows; one element says it as well as all.
    small = tunable.ladder.operands(tuple(min(n, 8) for n in shape), np.dtype(dtype), 0)
    outputs = tuple(tunable.ladder.expect(**small))
    rule = tunable.rule(shape, dtype)
    wanted = _results(tunable, rule, sets[0], outputs)
    seconds = {}
    for config in tunable.candidates(shape, dtype):
        found = _results(tunable, config, sets[0], outputs)
        _check(tunable, config, found, wanted, shape)
        plans = [tunable.plan(config, **each) for each in sets]
        works = [lambda plan=plan: launch_all(plan) for plan in plans]
        seconds[config] = timer.time(works, capture_launches if device != "sim" else None).median
    return Tuned(tunable.key(shape, dtype), seconds, rule)


def _results(
    tunable: Tunable, config: NamedTuple, operands: dict[str, Any], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    for name in outputs:
        poison(operands[name])
    launch_all(tunable.plan(config, **operands))
    return {name: to_host(operands[name]) for name in outputs}


def _check(
    tunable: Tunable,
    config: NamedTuple,
    found: dict[str, np.ndarray],
    wanted: dict[str, np.ndarray],
    shape: Shape,
) -> None:
    for name, output in found.items():
        error = relative_error(output, wanted[name].astype(np.float64))
        # Both are off from the truth by as much as this at most.
        if not error <= 2 * allowed_error(output, max(shape)):
            raise LLMNumbaError(
                f"{tunable.name} with {config}: `{name}` differs by {error:.2g} of its norm from "
                "what the rule's choice gives.",
                "A wrong kernel has no speed; run its tests.",
            )


def write_table(path: Path, found: Iterable[Tuned], commit: str | None = None) -> None:
    """Write entries to a table, beside those that it has; launches from now on use them.

    Parameters
    ----------
    path : Path
    found : iterable of Tuned
    commit : str, optional
        What was run, for a copy of the checkout without git.

    Raises
    ------
    LLMNumbaError
        If there is a table that cannot be read, or it cannot be written.
    """
    entries = read_table(path)["entries"] if path.exists() else {}
    entries |= {each.key: each.entry() for each in found}
    table = provenance("tune", {}, commit) | {"entries": dict(sorted(entries.items()))}
    write_text(path, json.dumps(table, indent=1, allow_nan=False) + "\n")
    forget()
