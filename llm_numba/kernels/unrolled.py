"""Repetition without a loop, for bodies that the compiler would not unroll.

Registers have no addresses. An array in registers needs indices that are known when the kernel is
compiled, and in a loop they are known only if it is unrolled. The compiler does so up to some
hundred instructions, and beyond them puts the array into memory without a word. What is called is
not counted: a function that calls another for the lower and for the upper half of the indices
leaves, once all are inlined, a line of calls with constants.
"""

import functools
from typing import Any

from numba import cuda


@functools.cache
def unrolled(count: int, body: Any) -> Any:
    """Make a device function that does something for 0, 1, 2 ... in a straight line.

    Parameters
    ----------
    count : int
        At least 1.
    body : device function
        Takes an index and a tuple of operands, and returns nothing.

    Returns
    -------
    device function
        Takes an index to begin at, 0, and the operands.
    """
    if count == 1:
        return body
    lower, upper = count // 2, count - count // 2
    first, second = unrolled(lower, body), unrolled(upper, body)

    @cuda.jit(device=True, forceinline=True)
    def both(i, operands):
        """Do the lower half, then the upper."""
        first(i, operands)
        second(i + lower, operands)

    return both
