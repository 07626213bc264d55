"""CUDA graphs: launches that are recorded once and replayed together.

A launch costs the host some microseconds, whatever its kernel takes. A graph of hundreds of them is
one call. It holds pointers, not arrays: whoever replays it writes new inputs where the old ones
were.

Source: "CUDA C++ Programming Guide", CUDA Graphs.
"""

from collections.abc import Callable
from typing import Any

from llm_numba.runtime.arrays import Array, keeping


class Graph:
    """Launches that are ready to be replayed.

    Parameters
    ----------
    graph : cupy.cuda.Graph
    arrays : list of cupy.ndarray
        What the launches allocated for themselves: their memory is the graph's.
    """

    def __init__(self, graph: Any, arrays: list[Array]) -> None:
        self._graph = graph
        self._arrays = arrays

    def launch(self, stream: Any = None) -> None:
        """Queue all launches.

        Parameters
        ----------
        stream : cupy.cuda.Stream, optional
            By default CuPy's current stream.
        """
        import cupy

        self._graph.launch(cupy.cuda.get_current_stream() if stream is None else stream)


def capture(work: Callable[[], object]) -> Graph:
    """Record what a function queues on the current stream, without running it.

    Parameters
    ----------
    work : callable
        Launches kernels. It must have run once before: compiling is not allowed during a capture.
        Nothing in it may wait for the GPU, or look at what is in its memory.

    Returns
    -------
    Graph
    """
    import cupy

    arrays: list[Array] = []
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, keeping(arrays):
        stream.begin_capture()
        try:
            work()
        finally:
            graph = stream.end_capture()
    return Graph(graph, arrays)
