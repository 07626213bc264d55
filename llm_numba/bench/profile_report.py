"""A profile as a table, as JSON, and as a Chrome trace.

The trace is for ``chrome://tracing`` or https://ui.perfetto.dev, which show it as lanes of time.
"""

from dataclasses import dataclass
from typing import Any

from llm_numba.bench.profile import Operation, Profile
from llm_numba.bench.profile_traffic import StepShape, Traffic


@dataclass(frozen=True)
class Row:
    """All operations of one label, over the layers.

    Attributes
    ----------
    label : str
    kernels : tuple of str
    count : int
        How many a step.
    seconds : float
        Of all of them together.
    traffic : Traffic
    flops : int
    """

    label: str
    kernels: tuple[str, ...]
    count: int
    seconds: float
    traffic: Traffic
    flops: int

    @property
    def bytes_per_second(self) -> float:
        """The fewest bytes over the time."""
        return self.traffic.num_bytes / self.seconds if self.seconds else 0.0

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations over the time."""
        return self.flops / self.seconds if self.seconds else 0.0


def rows_of(profile: Profile) -> list[Row]:
    """Gather a profile's operations by label.

    Parameters
    ----------
    profile : Profile

    Returns
    -------
    list of Row
        In the order in which they first ran.
    """
    groups: dict[str, list[Operation]] = {}
    for operation in profile.operations:
        groups.setdefault(operation.label, []).append(operation)
    return [
        Row(
            label,
            tuple(dict.fromkeys(kernel for each in group for kernel in each.kernels)),
            len(group),
            sum(each.seconds for each in group),
            sum((each.traffic for each in group), Traffic()),
            sum(each.flops for each in group),
        )
        for label, group in groups.items()
    ]


def to_json(profile: Profile, bytes_per_second: float) -> dict[str, Any]:
    """Return a profile as a JSON object.

    Parameters
    ----------
    profile : Profile
    bytes_per_second : float
        As of :meth:`.Profile.parts`.
    """
    return {
        "name": f"{profile.phase}/batch={profile.shape.batch}/context={profile.shape.context}",
        "phase": profile.phase,
        "shape": vars(profile.shape),
        "seconds": profile.seconds,
        "launch_seconds": profile.launch_seconds,
        "engine_seconds": profile.engine_seconds,
        "parts": profile.parts(bytes_per_second),
        "operations": [
            {
                "name": each.name,
                "weight": each.weight,
                "layer": each.layer,
                "traffic": vars(each.traffic),
                "flops": each.flops,
                "kernels": each.kernels,
                "spans": [[round(edge, 9) for edge in span] for span in each.spans],
            }
            for each in profile.operations
        ],
    }


def from_json(entry: dict[str, Any]) -> Profile:
    """Return the profile that :func:`to_json` wrote down.

    Parameters
    ----------
    entry : dict
    """
    operations = [
        Operation(
            each["name"],
            each["weight"],
            each["layer"],
            Traffic(**each["traffic"]),
            each["flops"],
            tuple(each["kernels"]),
            tuple((begin, end) for begin, end in each["spans"]),
        )
        for each in entry["operations"]
    ]
    return Profile(
        entry["phase"],
        StepShape(**entry["shape"]),
        operations,
        entry["seconds"],
        entry["launch_seconds"],
        entry["engine_seconds"],
    )


def chrome_trace(profiles: list[Profile]) -> dict[str, Any]:
    """Return profiles in Chrome's trace format: a process each, lanes of operations and kernels.

    Parameters
    ----------
    profiles : list of Profile

    Returns
    -------
    dict
        A JSON object; times are in microseconds, as the format has them.
    """
    events: list[dict[str, Any]] = []
    for process, profile in enumerate(profiles):
        shape = profile.shape
        title = f"{profile.phase}, batch {shape.batch}, context {shape.context}"
        events.append(_named("process_name", title, process, 0))
        events.append(_named("thread_name", "operations", process, 0))
        events.append(_named("thread_name", "kernels", process, 1))
        for each in profile.operations:
            whole = (each.spans[0][0], each.spans[-1][1])
            details = {"layer": each.layer, "flops": each.flops, **vars(each.traffic)}
            events.append(_event(each.label, whole, process, 0, details))
            for kernel, span in zip(each.kernels, each.spans, strict=False):
                events.append(_event(kernel, span, process, 1, {}))
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _named(kind: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _event(
    name: str, span: tuple[float, float], process: int, thread: int, details: dict[str, Any]
) -> dict[str, Any]:
    begin, end = span
    return {
        "ph": "X", "name": name, "pid": process, "tid": thread, "args": details,
        "ts": round(1e6 * begin, 3), "dur": round(1e6 * (end - begin), 3),
    }  # fmt: skip
