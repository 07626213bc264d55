"""Which kernels run in clusters: blocks that start together and reach each other's shared memory.

The hardware places the blocks of a cluster next to each other, all at the same time. A kernel is
written for clusters of one size, so it says so itself, to whoever runs it.
"""

import weakref
from collections.abc import Callable
from typing import Any

_blocks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

# What every GPU that has clusters can place.
MOST_BLOCKS = 8


def in_clusters(blocks: int) -> Callable[[Any], Any]:
    """Make a decorator for kernels whose blocks form clusters.

    Parameters
    ----------
    blocks : int
        Of a cluster, 1 to 8; they are neighbours along x, and the grid is a multiple of them there.

    Returns
    -------
    callable
        Takes a ``@cuda.jit`` kernel and returns the same.

    Raises
    ------
    ValueError
        If no GPU is sure to place so many.
    """
    if not 1 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"a cluster has 1 to {MOST_BLOCKS} blocks, not {blocks}")

    def mark(kernel: Any) -> Any:
        _blocks[kernel] = blocks
        return kernel

    return mark


def cluster_of(kernel: Any) -> int:
    """Return how many blocks a cluster of a kernel has; 1 if it has none.

    Parameters
    ----------
    kernel : dispatcher
    """
    return _blocks.get(kernel, 1)
