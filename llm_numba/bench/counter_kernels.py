"""Kernels with one pattern of access each, for ``llm-numba bench counters``.

Each index depends on an argument of the launch, so that the compiler can neither fold accesses nor
join them: what the source says is what the hardware is asked.
"""

from numba import cuda, float32, float64

from llm_numba.kernels import ptx

THREADS = 256
WORDS = 1024  # of shared memory that a pattern runs over


@cuda.jit
def global_stride(x, stride, out):
    """Read every `stride`-th element: 4 bytes of each sector and less."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i * stride]


@cuda.jit
def global_packets(x, out):
    """Copy 16 bytes a thread."""
    first = cuda.grid(1) * ptx.items16(x)
    if first < out.size:
        ptx.store16(out, first, ptx.load16(x, first))


@cuda.jit
def shared_stride(x, stride, out):
    """Read shared words `stride` apart: stride 1 has no conflict, stride 32 has nothing else."""
    words = cuda.shared.array(WORDS, float32)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        words[i] = x[i]
    cuda.syncthreads()
    out[cuda.grid(1)] = words[t * stride % WORDS]


@cuda.jit
def shared_groups(x, group, out):
    """Let `group` lanes beside each other read the same word; 32 are a broadcast."""
    words = cuda.shared.array(WORDS, float32)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        words[i] = x[i]
    cuda.syncthreads()
    out[cuda.grid(1)] = words[t // group]


@cuda.jit
def shared_float64(x, stride, out):
    """Read shared numbers of 8 bytes, `stride` numbers apart."""
    numbers = cuda.shared.array(WORDS, float64)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        numbers[i] = x[i]
    cuda.syncthreads()
    out[cuda.grid(1)] = numbers[t * stride % WORDS]


@cuda.jit
def shared_packets(x, stride, out):
    """Read shared packets of 16 bytes, `stride` packets apart."""
    words = cuda.shared.array(WORDS, float32)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        words[i] = x[i]
    cuda.syncthreads()
    packet = ptx.load16(words, t * stride * 4 % WORDS)
    ptx.store16(out, cuda.grid(1) * 4, packet)


@cuda.jit
def shared_float64_at(x, places, out):
    """Read the shared number of 8 bytes that a table gives each lane, none where it says -1."""
    numbers = cuda.shared.array(WORDS, float64)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        numbers[i] = x[i]
    cuda.syncthreads()
    place = places[t % 32]
    if place >= 0:
        out[cuda.grid(1)] = numbers[place]


@cuda.jit
def shared_packets_at(x, places, out):
    """Read the shared packet of 16 bytes that a table gives each lane, none where it says -1."""
    words = cuda.shared.array(WORDS, float32)
    t = cuda.threadIdx.x
    for i in range(t, WORDS, THREADS):
        words[i] = x[i]
    cuda.syncthreads()
    place = places[t % 32]
    if place >= 0:
        ptx.store16(out, cuda.grid(1) * 4, ptx.load16(words, place * 4))
