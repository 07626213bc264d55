"""CUDA graphs: launches that are recorded once and replayed together.

A launch costs the host some microseconds, whatever its kernel takes. A graph of hundreds of them is
one call. It holds pointers, not arrays: whoever replays it writes new inputs where the old ones
were.

Source: "CUDA C++ Programming Guide", CUDA Graphs.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from llm_numba.runtime.arena import Arena


class Graph:
    """Launches that are ready to be replayed.

    Parameters
    ----------
    graph : cupy.cuda.Graph
    arena : Arena
        Whose memory the launches write to.
    """

    def __init__(self, graph: Any, arena: Arena) -> None:
        self._graph = graph
        self._arena = arena

    def launch(self, stream: Any = None) -> None:
        """Queue all launches.

        Parameters
        ----------
        stream : cupy.cuda.Stream, optional
            By default CuPy's current stream.
        """
        import cupy

        self._graph.launch(cupy.cuda.get_current_stream() if stream is None else stream)


def capture(work: Callable[[], object], arena: Arena | None = None) -> Graph:
    """Record what a function queues on the current stream, without running it.

    Parameters
    ----------
    work : callable
        Launches kernels. It must have run once before: compiling is not allowed during a capture.
        Nothing in it may wait for the GPU, or look at what is in its memory.
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
    with stream, arena.active():
        stream.begin_capture()
        try:
            work()
        except BaseException:
            # A capture that an error broke ends with an error of its own, which says less.
            with contextlib.suppress(Exception):
                stream.end_capture()
            raise
        graph = stream.end_capture()
    return Graph(graph, arena)
