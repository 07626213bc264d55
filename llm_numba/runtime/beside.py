"""Work on a second stream, beside what goes on on the current one.

A stream does one thing after another. What need not wait for the next thing, as a message need not
for the next product, goes to a second one. Marks say what it must wait for::

    current stream    | product 0 | mark | product 1 | mark |            | join | what follows
    beside                        '----> | sum 0            '-> | sum 1 -'

Where there are no streams, on the CPU and in the simulator, work is done when it is queued.
"""

import functools
from collections.abc import Callable
from typing import Any

from llm_numba.runtime.arrays import Array, kind_of

# CUDA's numbers go down: blocks of such a stream come before others that wait for room as well.
_FIRST = -1


class SideStream:
    """A second stream, of a device that has none."""

    def mark(self) -> Any:
        """Note what is queued on the current stream up to here.

        Returns
        -------
        event
            To be given to :meth:`queue`.
        """
        return None

    def queue(self, work: Callable[[], object], after: Any) -> None:
        """Let work be done beside the current stream.

        Parameters
        ----------
        work : callable
            Queues it, on what is the current stream for it. Works go one after another.
        after : event
            A :meth:`mark` that must be reached before.
        """
        work()

    def join(self) -> None:
        """Let the current stream wait for all work that was queued."""


class _SideStreamOfGPU(SideStream):
    def __init__(self) -> None:
        import cupy

        self._cuda = cupy.cuda
        self._stream = cupy.cuda.Stream(non_blocking=True, priority=_FIRST)

    def mark(self) -> Any:
        return self._recorded(self._cuda.get_current_stream())

    def queue(self, work: Callable[[], object], after: Any) -> None:
        self._stream.wait_event(after)
        with self._stream:
            work()

    def join(self) -> None:
        self._cuda.get_current_stream().wait_event(self._recorded(self._stream))

    def _recorded(self, stream: Any) -> Any:
        return stream.record(self._cuda.Event(disable_timing=True))


def side_stream(like: Array) -> SideStream:
    """Return the second stream of a device.

    Parameters
    ----------
    like : array
        Lies there.

    Returns
    -------
    SideStream
        The same for all arrays of one GPU.
    """
    return _of_gpu(like.device.id) if kind_of(like) == "cuda" else SideStream()


@functools.cache
def _of_gpu(device: int) -> SideStream:
    # Made while that GPU is the current one, as it is for whoever queues work on its arrays.
    return _SideStreamOfGPU()
