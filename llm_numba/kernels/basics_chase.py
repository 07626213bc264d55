r"""How long one load takes: a chain of loads, each of which says where the next one goes.

A GPU hides waiting so well that one cannot see it: while a load is under way, others begin. Unless
they cannot. In a *pointer chase* the loaded number is the place of the next load, so a single
thread waits out each of them, and

.. math:: \text{latency} = \frac{\text{cycles of all steps}}{\text{steps}}

The places are a ring: one in each line of 128 bytes, each visited once before the first comes
again, in random order, so that nothing can guess the next one.

::

    lines      |  3 .....  |  2 .....  |  0 .....  |  1 .....  |      the ring 0 -> 3 -> 1 -> 2 -> 0
                  ^ line 0    ^ line 1    ^ line 2    ^ line 3

How large the ring is decides who answers. One that fits into the SM's L1 cache is answered from
there once it was walked, one that fits into the L2 cache from there, a larger one from memory. So
the latency over the size is a staircase, and a step's edge is a cache's size. An L1 cache is empty
when a launch begins: the first time around comes from L2, and counts.

A step is a load and the multiply-add that turns a number into an address; what the loop counts is
done while the load is under way.

Source: Saavedra and Smith, "Measuring Cache and TLB Performance and Their Effect on Benchmark
Runtimes", IEEE Transactions on Computers 44 (1995); for GPUs, Wong et al., "Demystifying GPU
Microarchitecture through Microbenchmarking", ISPASS 2010.
"""

import numpy as np
from numba import cuda, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.checks import integer

WORD_BYTES = 4
LINE_BYTES = 128
LINE_WORDS = LINE_BYTES // WORD_BYTES


@cuda.jit
def chase(ring, steps, place, taken):
    """Walk a ring in global memory: one thread, from `place`, which it leaves where it ends.

    Unsigned places have no case for numbers below zero, which would cost time in each step.
    """
    here = place[0]
    began = ptx.nanoseconds()
    begin = ptx.cycles()
    for _ in range(steps):
        here = ring[here]
    # Stored before the clock is read: so the last load is over by then.
    place[0] = here
    taken[0] = ptx.cycles() - begin
    taken[1] = ptx.nanoseconds() - began


@cuda.jit
def chase_shared(ring, steps, place, taken):
    """Walk a ring that was copied to shared memory first."""
    words = cuda.shared.array(0, uint32)
    for i in range(ring.size):
        words[i] = ring[i]
    here = place[0]
    began = ptx.nanoseconds()
    begin = ptx.cycles()
    for _ in range(steps):
        here = words[here]
    place[0] = here
    taken[0] = ptx.cycles() - begin
    taken[1] = ptx.nanoseconds() - began


def make_ring(num_bytes: int, seed: int = 0, line_words: int = LINE_WORDS) -> np.ndarray:
    """Lay out a ring in random order.

    Parameters
    ----------
    num_bytes : int
        Of the array; at least one line.
    seed : int
        Of the order.
    line_words : int
        Words from one place of the ring to the next one in memory.

    Returns
    -------
    uint32 [N]
        At each place the next one; the other words are 0.

    Raises
    ------
    KernelArgumentError
        If not even one line fits.
    """
    integer("num_bytes", num_bytes, at_least=WORD_BYTES * line_words)
    lines = num_bytes // (WORD_BYTES * line_words)
    order = np.random.default_rng(seed).permutation(lines).astype(np.uint32)
    order *= np.uint32(line_words)
    ring = np.zeros(lines * line_words, np.uint32)
    ring[order] = np.roll(order, -1)
    return ring
