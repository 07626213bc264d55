"""What a simulated launch cost, line by line.

A *request* is one load, store or atomic of one warp. Global memory serves it in *sectors* of
32 bytes, shared memory in *wavefronts*: passes over the 32 banks of 4 bytes, one word a bank.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """The addresses of one warp's request, as a witness for a line's cost.

    Attributes
    ----------
    space : {"global", "shared"}
    kind : {"load", "store", "atomic"}
    addresses : tuple of (int or None), length 32
        Byte address of each lane, relative to the array (global) or to the block's shared memory;
        None where the lane took no part.
    size : int
        Bytes a lane.
    cost : int
        Sectors or wavefronts.
    ways : int
        Of a shared request: most distinct words in one bank; 1 is free of conflicts.
    """

    space: str
    kind: str
    addresses: tuple[int | None, ...]
    size: int
    cost: int
    ways: int = 1


@dataclass(frozen=True)
class LineReport:
    """What one source line cost, summed over all warps.

    Attributes
    ----------
    file : str
    line : int
    global_requests : int
        Loads, stores and atomics of warps on global memory.
    global_sectors : int
        32-byte sectors that they moved.
    ideal_sectors : int
        Sectors, had the same bytes lain side by side.
    shared_requests : int
        Loads, stores and atomics of warps on shared memory.
    shared_wavefronts : int
        Passes that they took; the excess over ``ideal_wavefronts`` is bank conflicts.
    max_bank_ways : int
        Of the worst request: most distinct words in one bank; 1 is free of conflicts, 0 means no
        shared access.
    divergent : int
        Times that a branch on this line sent lanes of one warp different ways.
    ideal_wavefronts : int
        Passes, had there been no conflict: 1 a request, 2 or 4 for 8 or 16 bytes a lane.
    worst_global, worst_shared : Request or None
        The costliest request of each kind.
    """

    file: str
    line: int
    global_requests: int = 0
    global_sectors: int = 0
    ideal_sectors: int = 0
    shared_requests: int = 0
    shared_wavefronts: int = 0
    max_bank_ways: int = 0
    divergent: int = 0
    ideal_wavefronts: int = 0
    worst_global: Request | None = None
    worst_shared: Request | None = None


@dataclass
class ArrayReport:
    """How many elements of one argument all threads together touched.

    Attributes
    ----------
    loads, stores, atomics : int
        An element that two threads load, or one thread twice, counts twice.
    """

    loads: int = 0
    stores: int = 0
    atomics: int = 0


@dataclass(frozen=True)
class Report:
    """What a simulated launch did.

    Attributes
    ----------
    kernel : str
        Name of the kernel.
    grid, block : tuple of 3 int
        Blocks in the grid, threads in a block.
    lines : list of LineReport
        Lines that touched memory or diverged, by file and line. Empty without ``explain=True``.
    shared_bytes : int
        Shared memory of a block, static and dynamic.
    local_bytes : int
        Local arrays of a thread, before the compiler keeps them in registers.
    barriers : int
        Barriers that blocks passed, summed over blocks.
    printed : str
        What the kernel printed.
    arrays : dict of str to ArrayReport
        The elements of global memory that were touched, by the kernel's parameter; of what lies in
        a tuple, by that of the tuple. Empty without ``explain=True``.
    float64 : list of (file, line)
        Where the kernel computes in float64: Numba makes one of ``0.0`` and of an integer divided.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    lines: list[LineReport] = field(default_factory=list)
    shared_bytes: int = 0
    local_bytes: int = 0
    barriers: int = 0
    printed: str = ""
    arrays: dict[str, ArrayReport] = field(default_factory=dict)
    float64: list[tuple[str, int]] = field(default_factory=list)

    def line(self, number: int, file: str | None = None) -> LineReport:
        """Return the report of one line; all zeros if it cost nothing.

        Parameters
        ----------
        number : int
            Line number, counted from 1 as in the file.
        file : str, optional
            Needed only where the kernel calls device functions of other files.
        """
        for entry in self.lines:
            if entry.line == number and file in (None, entry.file):
                return entry
        return LineReport(file or "", number)

    @property
    def global_requests(self) -> int:
        """Requests of warps to global memory."""
        return sum(entry.global_requests for entry in self.lines)

    @property
    def global_sectors(self) -> int:
        """Sectors of 32 bytes that global requests moved."""
        return sum(entry.global_sectors for entry in self.lines)

    @property
    def ideal_sectors(self) -> int:
        """Sectors, had each request's bytes lain side by side."""
        return sum(entry.ideal_sectors for entry in self.lines)

    @property
    def shared_requests(self) -> int:
        """Requests of warps to shared memory."""
        return sum(entry.shared_requests for entry in self.lines)

    @property
    def shared_wavefronts(self) -> int:
        """Passes over the banks that shared requests took."""
        return sum(entry.shared_wavefronts for entry in self.lines)

    @property
    def ideal_wavefronts(self) -> int:
        """Passes, had there been no bank conflict."""
        return sum(entry.ideal_wavefronts for entry in self.lines)

    @property
    def divergent(self) -> int:
        """Branches that sent lanes of one warp different ways."""
        return sum(entry.divergent for entry in self.lines)
