"""How many bytes a second: from each memory, and by the stride between lanes.

Here many loads are under way at once, as many as the GPU takes. :func:`read_around` reads an array
again and again; how large it is decides from where it comes, as in ``basics_chase.py``. From round
to round an SM reads another part, and comes back to the first after some: one of 132 reads a
quarter of the array. So its L1 cache helps with arrays of up to four times its size.

::

    grid of G threads, an array of P packets of 16 bytes
    thread g    g    g + G    g + 2 G    ...    all modulo P, until all have read enough

:func:`read_strided` reads one word of 4 bytes in `stride`. Memory moves sectors of 32 bytes: with
stride 8 each lane has a sector to itself, uses 4 bytes of it, and the rest is moved for nothing.

Every thread stores the sum of what it read, or the compiler would drop the loads. Both are held to
the memory's own speed.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx

THREADS = 256
PACKET_WORDS = 4
# Loads under way at once in each thread.
AT_ONCE = 4
_SHARED_WORDS = 4096


@cuda.jit
def read_around(x, packets, sums):
    """Read 16 bytes `packets` times, around and around an array of a power of two of elements."""
    mask = x.size - 1
    step = PACKET_WORDS * cuda.gridsize(1)
    total = float32(0)
    for i in range(PACKET_WORDS * cuda.grid(1), PACKET_WORDS * packets, AT_ONCE * step):
        a = ptx.load16(x, i & mask)
        b = ptx.load16(x, i + step & mask)
        c = ptx.load16(x, i + 2 * step & mask)
        d = ptx.load16(x, i + 3 * step & mask)
        for k in range(PACKET_WORDS):
            total += (a[k] + b[k]) + (c[k] + d[k])
    sums[cuda.grid(1)] = total


@cuda.jit
def read_shared(rounds, sums, taken):
    """Read 16 bytes of shared memory `rounds` times in each thread, without a conflict."""
    words = cuda.shared.array(_SHARED_WORDS, float32)
    t = cuda.threadIdx.x
    for i in range(t, _SHARED_WORDS, cuda.blockDim.x):
        words[i] = float32(i)
    cuda.syncthreads()
    total = float32(0)
    begin = ptx.cycles()
    for i in range(t, t + AT_ONCE * 32 * rounds, AT_ONCE * 32):
        for j in range(AT_ONCE):
            a = ptx.load16(words, (i + 32 * j) * PACKET_WORDS & _SHARED_WORDS - 1)
            total += (a[0] + a[1]) + (a[2] + a[3])
    sums[t] = total
    cuda.syncthreads()
    if t == 0:
        taken[0] = ptx.cycles() - begin


@cuda.jit
def read_strided(x, stride, offset, count, sums):
    """Read `count` words, `stride` apart; neighbouring lanes read neighbours among them."""
    step = cuda.gridsize(1)
    total = float32(0)
    for i in range(cuda.grid(1), count, AT_ONCE * step):
        for j in range(AT_ONCE):
            total += x[(i + j * step) * stride + offset]
    sums[cuda.grid(1)] = total
