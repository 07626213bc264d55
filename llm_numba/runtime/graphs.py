"""CUDA graphs: launches that are recorded once and replayed together.

A launch costs the host some microseconds, whatever its kernel takes. A graph of hundreds of them is
one call. It holds pointers, not arrays: whoever replays it writes new inputs where the old ones
were.

A graph holds what the GPU does, and nothing of the host's. Where the host must take part, because
it sends by MPI what the GPU has computed, the graph is cut. Such work is marked, with
:func:`by_host`. A capture that meets it ends a *piece*, notes the work, which is not done then, and
begins the next piece::

    captured    kernel  kernel  | exchange |  kernel  kernel  kernel  | exchange |  kernel
    replayed    [   piece 0    ]  exchange   [       piece 1        ]   exchange   [ 2   ]

Source: "CUDA C++ Programming Guide", CUDA Graphs.
"""

import contextlib
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from llm_numba.runtime.arena import Arena
from llm_numba.runtime.arrays import kind_of

_recording: ContextVar["_Recording | None"] = ContextVar("recording", default=None)


class Graph:
    """Launches that are ready to be replayed, and what the host does between them.

    Parameters
    ----------
    pieces : list of cupy.cuda.Graph
        One or more.
    calls : list of callable
        One between each two pieces.
    arena : Arena
        Whose memory the launches write to.
    """

    def __init__(self, pieces: list[Any], calls: list[Callable[[], object]], arena: Arena) -> None:
        self._first, *others = pieces
        self._others = list(zip(calls, others, strict=True))
        self._arena = arena

    @property
    def num_pieces(self) -> int:
        """How many launches a replay is: one, and one more for each time that the host is met."""
        return 1 + len(self._others)

    def launch(self, stream: Any = None) -> None:
        """Queue all launches; of several pieces the last is queued when the host's work is done.

        Parameters
        ----------
        stream : cupy.cuda.Stream, optional
            By default CuPy's current stream. The host's work takes it for the current one.
        """
        import cupy

        stream = cupy.cuda.get_current_stream() if stream is None else stream
        self._first.launch(stream)
        for call, piece in self._others:
            with stream:
                call()
            piece.launch(stream)


def capture(work: Callable[[], object], arena: Arena | None = None) -> Graph:
    """Record what a function queues on the current stream, without running it.

    Parameters
    ----------
    work : callable
        Launches kernels. It must have run once before: compiling is not allowed during a capture.
        Nothing in it may wait for the GPU, or look at what is in its memory, but what is marked
        with :func:`by_host`.
    arena : Arena, optional
        Where the work allocates; by default an arena of this graph alone. Graphs that share one
        must not run at the same time.

    Returns
    -------
    Graph
    """
    import cupy

    arena = Arena() if arena is None else arena
    stream = cupy.cuda.Stream(non_blocking=True)
    recording = _Recording(stream, arena)
    token = _recording.set(recording)
    try:
        with stream, arena.active():
            stream.begin_capture()
            try:
                work()
            except BaseException:
                # A capture that an error broke ends with an error of its own, which says less.
                with contextlib.suppress(Exception):
                    stream.end_capture()
                raise
            recording.pieces.append(stream.end_capture())
    finally:
        _recording.reset(token)
    return Graph(recording.pieces, recording.calls, arena)


def by_host(work: Callable[..., None]) -> Callable[..., None]:
    """Mark a function that waits for the GPU, or reads or writes its memory from the host.

    It is called as ever. Only where launches are being captured it is noted, and then called in
    each replay: when all launches before it are queued, and those after it are not.

    Parameters
    ----------
    work : callable
        Returns nothing, and has done all when it returns. Its arguments are positional. Arrays of a
        GPU among them, also in lists and tuples, are C-contiguous.

    Returns
    -------
    callable
        The same, for both cases.
    """

    @functools.wraps(work)
    def now_or_in_replays(*args: Any) -> None:
        recording = _recording.get()
        if recording is None:
            work(*args)
        else:
            recording.cut(work, args)

    return now_or_in_replays


class _Recording:
    """A capture under way: the pieces that are whole, and what the host does behind each."""

    def __init__(self, stream: Any, arena: Arena) -> None:
        self.pieces: list[Any] = []
        self.calls: list[Callable[[], object]] = []
        self._stream, self._arena = stream, arena

    def cut(self, work: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.pieces.append(self._stream.end_capture())
        # Not kept: what comes later in the same capture may have an array's memory, as in a piece.
        self.calls.append(functools.partial(work, *self._lent(args)))
        self._stream.begin_capture()

    def _lent(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._lent, value))
        return self._arena.view(value) if kind_of(value) == "cuda" else value
