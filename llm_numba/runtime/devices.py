"""What several ranks launch, run together in the simulator."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_numba.runtime.arrays import kernel_view
from llm_numba.runtime.launch import Launch, intercept
from llm_numba.simulator import simulate_devices


def simulate_ranks(
    programs: Sequence[Callable[[], Any]], *, schedule: str = "random", seed: int = 0
) -> None:
    """Run what several programs launch, each on a simulated device of its own, at the same time.

    Kernels of different ranks may wait for each other; those of one rank run one after another. The
    programs only launch: nothing has run before the last of them has returned.

    Parameters
    ----------
    programs : sequence of callable
        One a rank, called in turn. Their arrays are of the simulated device.
    schedule, seed
        As of :func:`llm_numba.simulator.simulate_devices`.

    Raises
    ------
    SimulationError
        If the simulator finds a fault.
    """
    queues: list[list[Launch]] = []
    for program in programs:
        queues.append([])
        with intercept(queues[-1].append):
            program()
    simulate_devices(
        [[_as_seen(launch) for launch in queue] for queue in queues], schedule=schedule, seed=seed
    )


def _as_seen(launch: Launch) -> Launch:
    """Return a launch with its arrays as kernels see them."""
    args = (
        np.asarray(kernel_view(each)) if isinstance(each, np.ndarray) else each
        for each in launch.args
    )
    return launch._replace(args=tuple(args))
