"""
A first kernel
==============

A kernel is a function that thousands of threads run at the same time. This one adds two arrays.
We write it, run it without a GPU, break it in the way that everybody breaks it, and then look at
what it asks of memory.
"""

# %%
# One element a thread
# --------------------
#
# On a CPU the sum of two arrays is a loop. On a GPU the loop is gone: each thread computes one
# element, and finds out which by asking for its place in the grid of all threads.

import numpy as np
from numba import cuda

from llm_numba.simulator import OutOfBoundsError, simulate


@cuda.jit
def add(x, y, total):
    """Add two arrays, an element a thread."""
    i = cuda.grid(1)
    if i < total.size:
        total[i] = x[i] + y[i]


# %%
# Nothing in it is ours: it is ``numba.cuda`` as it is, and it compiles for a GPU as it stands. A
# launch says how many threads there shall be. They come in *blocks*, here of 128, and the blocks
# make the *grid*: as many as it takes to have a thread for each element, so rounded up.

x = np.arange(1000, dtype=np.float32)
y = np.full(1000, 0.5, np.float32)
total = np.zeros_like(x)

threads = 128
blocks = -(-x.size // threads)
report = simulate(add, blocks, threads, (x, y, total))
print(f"{blocks} blocks of {threads} threads for {x.size} elements")
print(total[:4], "...", total[-1])

# %%
# The mistake that everybody makes
# --------------------------------
#
# Eight blocks of 128 threads are 1024, and there are 1000 elements. The last 24 threads have
# nothing to do, which is what the ``if`` is for. Leave it out, and on a GPU they write behind the
# array, into whatever lies there, mostly without a word. The simulator minds.


@cuda.jit
def add_unguarded(x, y, total):
    """Add two arrays, and forget that the grid was rounded up."""
    i = cuda.grid(1)
    total[i] = x[i] + y[i]


try:
    simulate(add_unguarded, blocks, threads, (x, y, total))
except OutOfBoundsError as fault:
    print(fault.cause.partition(": ")[2])

# %%
# What memory sees
# ----------------
#
# The hardware runs 32 threads together, a *warp*. When a warp executes ``x[i]``, 32 addresses go
# to memory as one request, and memory answers in *sectors* of 32 bytes. Neighbours that read
# neighbours need four sectors for 32 floats: every byte that moves is wanted. This is the best
# that can happen. To see the worst, let neighbouring threads take elements that lie 8 apart.


@cuda.jit
def add_apart(x, y, total):
    """Add two arrays; neighbours take elements 8 apart."""
    i = cuda.grid(1)
    k = (i % 128) * 8 + i // 128
    if i < 1024 and k < total.size:
        total[k] = x[k] + y[k]


again = np.zeros_like(x)
apart = simulate(add_apart, blocks, threads, (x, y, again))
assert np.array_equal(again, total)
for name, seen in {"side by side": report, "8 apart": apart}.items():
    print(f"{name:12s} {seen.global_sectors:5d} sectors moved, {seen.ideal_sectors} would do")

# %%
# Both kernels add the same numbers, and both are right. The second moves eight times the sectors,
# and adding two numbers is no work beside fetching them: on a GPU this kernel waits for memory.
#
# The picture shows one request of each. A row is a lane of the warp, and the coloured places are
# the bytes that it wants, in the sectors that move.

from llm_numba.microscope import compare

compare("Adding two arrays", {"side by side": report, "8 apart": apart})

# %%
# On a GPU, if there is one
# -------------------------
#
# ``runtime.launch`` takes arrays of a GPU to the GPU and all others to the simulator. The kernel
# is the same.

from llm_numba import runtime

device = "sim" if runtime.gpu_problem() else "cuda"
there = [runtime.to_device(array, device) for array in (x, y, np.zeros_like(x))]
runtime.launch(add, blocks, threads, tuple(there))
assert np.array_equal(runtime.to_host(there[2]), total)
print(f"the same sum on device {device!r}")

# %%
# One thing to try
# ----------------
#
# Halves instead of floats: make ``x``, ``y`` and ``total`` of ``np.float16``. Before you run it,
# say how many sectors each kernel will move, and by what factor the second is worse now.
