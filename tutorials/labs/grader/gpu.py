"""The device that is a real GPU: runs a student's launches, and times them beside ours.

Both are timed in the same run on the same arrays, in turns. A ratio of times says the same on a
fast GPU and on a slow one, on a cold one and on one that others use too.
"""

import importlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from grader.channel import Channel
from grader.device import Device, failed, obey_all

ROUNDS = 3
Work = Callable[[], object]


def serve(number: int) -> None:
    """Run and time launches, as orders come.

    Parameters
    ----------
    number : int
        File descriptor of the socket.
    """
    from llm_numba.bench.gpu_timing import seconds_on_gpu

    obey_all(GPU("cuda", seconds_on_gpu), Channel(socket.socket(fileno=number)))


class GPU(Device):
    """A GPU with one student's kernels on it.

    Parameters
    ----------
    place : {"cuda", "sim"}
        Where arrays go.
    seconds_of : callable
        Times a piece of work.
    """

    def __init__(self, place: str, seconds_of: Callable[[Work], float]) -> None:
        super().__init__()
        self._place = place
        self._seconds_of = seconds_of

    def problem(self) -> dict[str, Any]:
        """Say why there is no GPU, or None: ``{"problem": ...}``."""
        from llm_numba.runtime import gpu_problem

        return {"problem": gpu_problem()}

    def race(
        self, launches: Sequence[dict[str, Any]], arrays: dict[int, np.ndarray],
        against: str, against_args: tuple[Any, ...], against_options: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """Run a student's launches; then time them and one of our functions in turns.

        Parameters
        ----------
        launches : sequence of dict
            `kernel`, `grid`, `block`, `args` and `shared_bytes` of each.
        arrays : dict of int to array
            What the arguments name.
        against : str
            ``"module:function"``.
        against_args, against_options
            Its arguments.

        Returns
        -------
        dict
            The `arrays` after the first run, and the `seconds` of both in each round.
        """
        from llm_numba.runtime import launch, to_device, to_host

        try:
            placed = {number: to_device(each, self._place) for number, each in arrays.items()}

            def on_device(values: Sequence[Any]) -> tuple[Any, ...]:
                return tuple(
                    placed[each.device_number] if hasattr(each, "device_number") else each
                    for each in values
                )

            ready = [
                (self._kernels[each["kernel"]], each["grid"], each["block"],
                 on_device(each["args"]), each["shared_bytes"])
                for each in launches
            ]  # fmt: skip

            def theirs() -> None:
                for each in ready:
                    launch(*each)

            theirs()
            results = {number: to_host(each) for number, each in placed.items()}
            module, _, name = against.partition(":")
            function = getattr(importlib.import_module(module), name)
            args = on_device(against_args)

            def ours() -> None:
                function(*args, **against_options)

            rounds = [(self._seconds_of(theirs), self._seconds_of(ours)) for _ in range(ROUNDS)]
        except Exception as failure:
            return failed(failure)
        return {"arrays": results, "seconds": rounds}
