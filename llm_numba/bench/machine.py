"""``llm-numba bench machine``: what a GPU's memories, warps, launches and streams really cost.

The course on CUDA (``docs/cuda``) says of each thing how long it takes; this measures it, with the
kernels that the course shows. What an SM counts itself, it counts in cycles (``machine_cycles``,
``machine_tensor``).
Bandwidths are timed by events (``machine_bandwidth``), launches by the host's clock, and copies
beside computing by both (``machine_host``); pages of unified memory move in ``machine_unified``.
The host's own processor stands beside it (``machine_cores``).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llm_numba.bench import (
    machine_bandwidth,
    machine_cores,
    machine_cycles,
    machine_host,
    machine_tensor,
    machine_unified,
)
from llm_numba.bench.budget import Budget
from llm_numba.bench.record import Result
from llm_numba.errors import LLMNumbaError

# Each part's share of the time is what it took on an H100, in seconds, compiling included.
_SHARES = {
    "instructions": 10,
    "chase": 25,
    "banks": 4,
    "paths": 4,
    "bandwidth": 12,
    "stride": 6,
    "warps": 4,
    "tensor": 12,
    "launch": 5,
    "overlap": 8,
    "unified": 6,
    "cores": 20,
}
PARTS = tuple(_SHARES)

Timelines = dict[str, list[list[Any]]]


@dataclass(frozen=True)
class MachineSettings:
    """What is measured, and how often.

    Attributes
    ----------
    parts : tuple of str
        Of :data:`PARTS`.
    repeats : int
        Runs of each measurement.
    """

    parts: tuple[str, ...] = PARTS
    repeats: int = 9

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        return asdict(self)

    def budget(self, limit_seconds: float) -> Budget:
        """Return one for the chosen parts.

        Parameters
        ----------
        limit_seconds : float
            From now on.
        """
        return Budget(limit_seconds, {part: _SHARES[part] for part in self.parts})


def choose(names: str) -> tuple[str, ...]:
    """Return the parts that a user names.

    Parameters
    ----------
    names : str
        Separated by commas; "" for all.

    Raises
    ------
    LLMNumbaError
        If there is no such part.
    """
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    if unknown := [name for name in chosen if name not in PARTS]:
        raise LLMNumbaError(
            f"--only {unknown[0]} names no part of this benchmark.",
            f"Choose of: {', '.join(PARTS)}.",
        )
    return tuple(part for part in PARTS if part in chosen) or PARTS


def measure(settings: MachineSettings, budget: Budget, timelines: Timelines) -> Iterator[Result]:
    """Run the chosen parts on the current GPU.

    Parameters
    ----------
    settings : MachineSettings
    budget : Budget
        As of :meth:`MachineSettings.budget`. It notes what was left out.
    timelines : dict
        Takes what is no figure: of each way to overlap, when which stage of which chunk ran.

    Yields
    ------
    Result

    Raises
    ------
    Exception
        That of the first part, if nothing can be measured at all.
    """
    repeats = settings.repeats
    parts: dict[str, Callable[[], Iterator[Result]]] = {
        "instructions": lambda: machine_cycles.instructions(repeats),
        "chase": lambda: machine_cycles.chases(repeats, budget),
        "banks": lambda: machine_cycles.banks(repeats),
        "paths": lambda: machine_cycles.paths(repeats),
        "bandwidth": lambda: machine_bandwidth.bandwidths(repeats),
        "stride": lambda: machine_bandwidth.strides(repeats),
        "warps": lambda: machine_bandwidth.hiding(repeats),
        "tensor": lambda: machine_tensor.tensor_cores(repeats),
        "launch": lambda: machine_host.launches(repeats),
        "overlap": lambda: machine_host.overlaps(repeats, timelines),
        "unified": lambda: machine_unified.unified(repeats),
        "cores": lambda: machine_cores.cores(repeats),
    }
    for part in settings.parts:
        if budget.allows(part, part):
            yield from budget.results(part, parts[part]())


def properties() -> dict[str, int]:
    """Return what the driver says of the GPU: sizes that the figures depend on.

    Returns
    -------
    dict of str to int
        ``multiprocessors``, ``l2_bytes``, ``shared_bytes`` of an SM, ``block_shared_bytes`` that
        one block may have.
    """
    import cupy

    attributes = cupy.cuda.Device().attributes
    return {
        "multiprocessors": attributes["MultiProcessorCount"],
        "l2_bytes": attributes["L2CacheSize"],
        "shared_bytes": attributes["MaxSharedMemoryPerMultiprocessor"],
        "block_shared_bytes": attributes["MaxSharedMemoryPerBlockOptin"],
    }
