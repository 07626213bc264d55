r"""The first hour with CUDA: threads, grid-stride loops, atomics, shared memory.

.. math:: z_i = \alpha x_i + y_i \qquad\qquad h_b = |\{i : v_i = b\}|

**SAXPY**, for x, y, z [N] in float32, float16 or bfloat16. One thread computes one element. A
block has 256 threads, so the grid has N / 256 blocks, rounded up, and threads past the end do
nothing:

::

    block 0            block 1                block ceil(N / 256) - 1
    t0 t1 ... t255     t0   t1   ... t511     ...  t(N-1)  -  -  -
    z0 z1 ... z255     z256 z257 ... z511     ...  z(N-1)

2 N FLOPs for 3 N elements moved: memory is the ceiling, by far. The 32 threads of a warp touch
32 elements that lie side by side, so each request takes 4 sectors of float32 (2 sectors of 2-byte
elements), every byte of them used. Step 2 lets a fixed number of threads *stride* over any N:

::

    thread 0     z0           z(G)           z(2G)          G: threads in the grid
    thread 1     z1           z(G+1)         z(2G+1)

**Histogram**, for v [N] int32 and h [bins] int32. Threads that count the same number would write
over each other's counts; an *atomic* addition reads, adds and writes without letting another in
between. 4 N bytes are read, and the ceiling is memory as long as atomics do not wait in line.
They do: an addition to one address follows the one before. Step 1 sends all N to L2, where the
whole GPU meets. In step 2 each block counts in shared memory, next door, and sends one addition
a bin in the end: with B blocks at most B x bins additions reach L2 instead of N.

For streams and events see ``basics_streams.py``, for occupancy ``basics_occupancy.py``.

Sources: "CUDA C++ Programming Guide", thread hierarchy, atomic functions; Harris, "CUDA Pro Tip:
Write Flexible Kernels with Grid-Stride Loops", 2013; Sakharnykh, "Fast Histograms Using Shared
Atomics on Maxwell", 2015.
"""

from typing import Any

import numpy as np
from numba import cuda, int32

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.runtime import Launch, empty, launch_all

THREADS = 256
# An H100 holds 132 x 8 blocks of 256 threads at a time; what others hold is near enough.
MAX_BLOCKS = 1280
# A block of the histogram reads some thousand numbers for each bin that it sends on.
VALUES_PER_THREAD = 16
# 48 KiB, what every block may have without asking.
MAX_SHARED_BINS = 48 * 1024 // 4

DTYPES = ("float32", "float16", "bfloat16")


@cuda.jit
def saxpy_thread(alpha, x, y, out):
    """One thread an element.

    ``cuda.grid(1)`` is ``blockIdx.x * blockDim.x + threadIdx.x``.
    """
    i = cuda.grid(1)
    if i < out.size:
        out[i] = ptx.from_float(out, alpha * ptx.to_float(x[i]) + ptx.to_float(y[i]))


@cuda.jit
def saxpy_stride(alpha, x, y, out):
    """One thread several elements, as many apart as the grid has threads.

    The grid no longer depends on N: what each thread prepares is paid for once, and no block is
    started for 256 elements alone. Neighbours still touch neighbours; a thread with several
    elements *side by side* would spread each request of its warp over many sectors.
    """
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        out[i] = ptx.from_float(out, alpha * ptx.to_float(x[i]) + ptx.to_float(y[i]))


@cuda.jit
def clear(counts):
    """Set to zero what the next kernel adds to.

    Launches on one stream run in order: all counts are zero before the next kernel begins. Inside
    one kernel nothing makes a block wait for another.
    """
    b = cuda.grid(1)
    if b < counts.size:
        counts[b] = 0


@cuda.jit
def histogram_global(values, counts):
    """Add to the counts in global memory.

    ``counts[v] += 1`` would be wrong: two threads could read the same old count.
    """
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        value = values[i]
        if value >= 0 and value < counts.size:
            cuda.atomic.add(counts, value, int32(1))


@cuda.jit
def histogram_shared(values, counts):
    """Count in the block's own shared memory first.

    The length of `mine` is known at the launch only: *dynamic* shared memory, asked for as 0.
    """
    mine = cuda.shared.array(0, int32)
    for b in range(cuda.threadIdx.x, counts.size, cuda.blockDim.x):
        mine[b] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        value = values[i]
        if value >= 0 and value < counts.size:
            cuda.atomic.add(mine, value, int32(1))
    cuda.syncthreads()
    for b in range(cuda.threadIdx.x, counts.size, cuda.blockDim.x):
        if mine[b] > 0:
            cuda.atomic.add(counts, b, mine[b])


def saxpy(
    alpha: float, x: Any, y: Any, *, out: Any = None, step: str = "stride", stream: Any = None
) -> Any:
    """Multiply a vector by a number and add another.

    Parameters
    ----------
    alpha : float
        Rounded to float32.
    x : float32, float16 or bfloat16 [N]
        On a device.
    y : as x [N]
    out : as x [N], optional
        Where the result goes; may be x or y.
    step : str
        Of ``LADDER``.
    stream : optional
        By default the current one.

    Returns
    -------
    as x [N]
        `out`; computed in float32, rounded once.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    alpha = checks.number("alpha", alpha)
    checks.array("x", x, ndim=1, dtype=DTYPES)
    same = {"dtype": np.dtype(x.dtype).name, "shape": x.shape, "like": x}
    checks.array("y", y, **same)
    checks.choice("step", step, [each.name for each in LADDER.steps])
    if out is None:
        out = empty(x.shape, x.dtype, like=x)
    checks.array("out", out, **same)
    launch_all(LADDER.step(step).plan(alpha=alpha, x=x, y=y, out=out), stream)
    return out


def histogram(
    values: Any, bins: int, *, out: Any = None, step: str = "shared", stream: Any = None
) -> Any:
    """Count how often each number occurs.

    Parameters
    ----------
    values : int32 [N]
        On a device. Those below 0, or not below `bins`, are counted nowhere.
    bins : int
        At least 1.
    out : int32 [bins], optional
        Where the counts go; need not be zero.
    step : str
        Of ``HISTOGRAM_LADDER``.
    stream : optional
        By default the current one.

    Returns
    -------
    int32 [bins]
        `out`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    checks.array("values", values, ndim=1, dtype="int32")
    bins = checks.integer("bins", bins, at_least=1)
    checks.choice("step", step, [each.name for each in HISTOGRAM_LADDER.steps])
    if out is None:
        out = empty((bins,), "int32", like=values)
    checks.array("out", out, dtype="int32", shape=(bins,), like=values)
    launch_all(HISTOGRAM_LADDER.step(step).plan(values=values, bins=bins, out=out), stream)
    return out


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)


def _plan_thread(alpha: float, x: Any, y: Any, out: Any) -> tuple[Launch, ...]:
    args = (np.float32(alpha), x, y, out)
    return (Launch(saxpy_thread, (_blocks(out.size),), (THREADS,), args),)


def _plan_stride(alpha: float, x: Any, y: Any, out: Any) -> tuple[Launch, ...]:
    grid = min(_blocks(out.size), MAX_BLOCKS)
    return (Launch(saxpy_stride, (grid,), (THREADS,), (np.float32(alpha), x, y, out)),)


def _plan_global(values: Any, bins: int, out: Any) -> tuple[Launch, ...]:
    grid = min(_blocks(values.size), MAX_BLOCKS)
    return (
        Launch(clear, (_blocks(bins),), (THREADS,), (out,)),
        Launch(histogram_global, (grid,), (THREADS,), (values, out)),
    )


def _plan_shared(values: Any, bins: int, out: Any) -> tuple[Launch, ...]:
    if bins > MAX_SHARED_BINS:
        # So many bins do not fit, and spread the additions by themselves.
        return _plan_global(values, bins, out)
    grid = min(_blocks(-(-values.size // VALUES_PER_THREAD)), MAX_BLOCKS)
    return (
        Launch(clear, (_blocks(bins),), (THREADS,), (out,)),
        Launch(histogram_shared, (grid,), (THREADS,), (values, out), 4 * bins),
    )


def _saxpy_operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    x, y = np.random.default_rng(seed).normal(size=(2, *shape)).astype(dtype)
    return {"alpha": 1.5, "x": x, "y": y, "out": np.full(shape, np.nan, dtype)}


def _saxpy_expected(alpha: float, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> Operands:
    return {"out": reference.saxpy(alpha, x.astype(np.float64), y.astype(np.float64))}


def _histogram_operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    length, bins = shape
    # Few numbers are frequent and most are rare, like words; some lie outside.
    values = np.random.default_rng(seed).geometric(4 / (bins + 4), size=length) - 2
    return {"values": values.astype(dtype), "bins": bins, "out": np.full(bins, -1, np.int32)}


LADDER = Ladder(
    name="saxpy",
    steps=(
        Step("thread", "One thread an element.", _plan_thread, (saxpy_thread,)),
        Step(
            "stride",
            "One thread several elements, a grid apart: one launch for any length.",
            _plan_stride,
            (saxpy_stride,),
        ),
    ),
    operands=_saxpy_operands,
    expect=_saxpy_expected,
    dtypes=DTYPES,
    example=(4096,),
    axes="N",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: 3 * shape[0] * itemsize,
    flops=lambda shape: 2 * shape[0],
)

HISTOGRAM_LADDER = Ladder(
    name="histogram",
    steps=(
        Step(
            "global",
            "Atomic additions in global memory: right, and everybody in one line.",
            _plan_global,
            (clear, histogram_global),
        ),
        Step(
            "shared",
            "Count in each block's shared memory, then add once a bin and block.",
            _plan_shared,
            (clear, histogram_shared),
        ),
    ),
    operands=_histogram_operands,
    expect=lambda values, bins, out: {"out": reference.histogram(values, bins)},
    dtypes=("int32",),
    example=(16384, 64),
    axes="N bins",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: shape[0] * itemsize + shape[1] * 4,
    flops=lambda shape: 0,
)
