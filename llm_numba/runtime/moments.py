"""Moments of a program, noted where its work is done: on the host, or on a GPU.

A GPU works through what was launched long after the launches. So the moment at which it comes to a
place among its work is not known when that place is passed on the host. There an event is recorded,
and asked later. Its time is put on the clock of the host, which all processes of a machine have in
common: once, the GPU is waited for, and both clocks are read.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

Moment = Callable[[], float]


def note_moment(device: str) -> Moment:
    """Note the moment at which a device is through with all that it was given so far.

    Parameters
    ----------
    device : {"cpu", "cuda", "sim"}
        Of the current stream, if it is a GPU. Others are through at once.

    Returns
    -------
    callable() -> float
        Seconds on the clock of ``time.monotonic``. Of a GPU, it waits until the moment has come.
    """
    if device != "cuda":
        now = time.monotonic()
        return lambda: now
    import cupy

    first, seconds = _both_clocks()
    event = cupy.cuda.Event()
    event.record()

    def when() -> float:
        event.synchronize()
        return seconds + 1e-3 * cupy.cuda.get_elapsed_time(first, event)

    return when


@functools.cache
def _both_clocks() -> tuple[Any, float]:
    """Return an event, and when it was."""
    import cupy

    event = cupy.cuda.Event()
    event.record()
    event.synchronize()
    return event, time.monotonic()
