"""What a bank conflict costs, in cycles.

Shared memory has 32 banks, each a word of 4 bytes wide; word w lies in bank w mod 32. If the lanes
of a warp want several words of one bank, the bank serves them one after the other.

Here every word holds its own number. A load from a word gives the place of that same word, so each
lane stays where it is for ever, and only the pattern of the 32 places matters, which the stride
between lanes makes:

::

    stride 1     lane  0  1  2  3 ...       banks  0  1  2  3 ...    32 banks, 1 way
    stride 2     lane  0  1  2  3 ...       banks  0  2  4  6 ...    16 banks, 2 ways
    stride 32    lane  0  1  2  3 ...       banks  0  0  0  0 ...     1 bank, 32 ways
    stride 33    lane  0  1  2  3 ...       banks  0  1  2  3 ...    32 banks, 1 way

One warp shows what a load then takes until it is over. Many warps show what it takes of the SM, for
while one waits, others load.

Source: "CUDA C++ Programming Guide", shared memory, bank conflicts.
"""

from numba import cuda, uint32

from llm_numba.kernels import ptx

WORDS = 33 * 32
IN_A_ROUND = 32


@cuda.jit
def stay(stride, rounds, out, taken):
    """Load from shared words `stride` apart, each load at the place that the one before gave.

    The barriers let all warps begin and end together, so that the first thread's clock is
    everybody's.
    """
    words = cuda.shared.array(WORDS, uint32)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, cuda.blockDim.x):
        words[i] = i
    here = uint32(t % 32 * stride)
    cuda.syncthreads()
    begin = ptx.cycles()
    for _ in range(rounds):
        for _ in range(IN_A_ROUND):
            here = words[here]
    out[t] = here
    cuda.syncthreads()
    if t == 0:
        taken[0] = ptx.cycles() - begin
