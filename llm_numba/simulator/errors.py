"""What can be wrong with a kernel, as the simulator finds it.

Each message names the file, the line and the threads. All are
:class:`~llm_numba.errors.LLMNumbaError`, so that the command line prints cause and remedy without
a traceback.
"""

from llm_numba.errors import LLMNumbaError


class SimulationError(LLMNumbaError):
    """A fault in a simulated kernel.

    Attributes
    ----------
    file : str or None
    line : int or None
        Where the kernel stood.
    related : tuple of (file, line)
        Other places that have to do with it: where the other thread of a race was.
    """

    def __init__(
        self,
        cause: str,
        remedy: str,
        file: str | None = None,
        line: int | None = None,
        related: tuple[tuple[str, int], ...] = (),
    ) -> None:
        place = f"{file}:{line}: " if file else ""
        super().__init__(place + cause, remedy)
        self.file = file
        self.line = line
        self.related = related


class RaceError(SimulationError):
    """Two threads touch the same memory, one of them writes, and nothing orders them."""


class BarrierDivergenceError(SimulationError):
    """Threads that must meet at a barrier or warp operation went different ways."""


class OutOfBoundsError(SimulationError):
    """An index lies outside its array."""


class ProxyError(RaceError):
    """Copy engine or tensor cores read what nothing made visible to them."""


class DescriptorError(OutOfBoundsError):
    """A tensor map or a matrix descriptor says something that the hardware does not do."""


class UninitializedReadError(SimulationError):
    """A thread reads memory that nobody has written."""


class DeadlockError(SimulationError):
    """No thread can go on, or all that can go on wait for what never comes."""


class KernelAssertionError(SimulationError):
    """The kernel raised an exception; compiled without ``debug=True`` it would end silently."""


class UnsupportedError(SimulationError):
    """The kernel uses what the simulator, or the hardware, does not have."""
