"""Many sums over the lanes of a warp at once.

A butterfly adds one number over 32 lanes in 5 shuffles, and afterwards all lanes have the sum,
which only one needs. Where each lane has several numbers, each to be added over the same lanes, an
*exchange* is shorter: two lanes give each other the half that they do not keep, and have half as
many numbers afterwards. For 16 sums over 16 lanes, 15 shuffles in place of 64:

::

    distance 8    16 sums -> 8       lanes 0..7 keep sums 0..7, lanes 8..15 keep sums 8..15
             4     8      -> 4
             2     4      -> 2
             1     2      -> 1       lane i has sum i
"""

import functools

from numba import cuda

from llm_numba.kernels.reduce import FULL_WARP


@functools.cache
def exchange(count, lanes, apart=1):
    """Make a device function that adds `count` sums over `lanes` lanes at once.

    Parameters
    ----------
    count, lanes : int
        Powers of two.
    apart : int
        By how many places the lanes that add up are apart in the warp: 1 where they are neighbours.

    Returns
    -------
    device function
        ``(sums, column)``, of a local array and the lane's place in its row. Afterwards the lane
        has total ``column * count // lanes``, and those that follow if they are more than the
        lanes, in the first places of the array.
    """
    distance, half = lanes // 2, count // 2
    if distance == 0:

        @cuda.jit(device=True)
        def done(sums, column):
            """End: each lane has its totals."""

        return done
    rest, far = exchange(max(1, half), distance, apart), distance * apart
    if half == 0:

        @cuda.jit(device=True)
        def add(sums, column):
            """Add the sum that is left over pairs of lanes, and go on at half the distance."""
            sums[0] += cuda.shfl_xor_sync(FULL_WARP, sums[0], far)
            rest(sums, column)

        return add

    @cuda.jit(device=True)
    def halve(sums, column):
        """Give half of the sums away, add what comes for the others, and go on with those."""
        is_upper = column & distance != 0
        for i in range(half):
            given = sums[i] if is_upper else sums[half + i]
            kept = sums[half + i] if is_upper else sums[i]
            sums[i] = kept + cuda.shfl_xor_sync(FULL_WARP, given, far)
        rest(sums, column)

    return halve
