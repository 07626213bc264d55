"""The one seam between a launcher and what runs the kernel."""

from typing import Any, NamedTuple


class Launch(NamedTuple):
    """One kernel launch, ready to run on a GPU or in the simulator.

    Attributes
    ----------
    kernel : dispatcher
        A ``@cuda.jit`` kernel.
    grid, block : tuple of int
        Blocks in the grid and threads in a block, 1 to 3 axes.
    args : tuple
        Arrays and scalars, in the kernel's order.
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]
    shared_bytes: int = 0
