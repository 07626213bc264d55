r"""Sums and maxima of rows: how threads put their results together.

.. math:: s_m = \sum_n x_{mn} \qquad\qquad t_m = \max_n x_{mn}

x [M, N] is float32, float16 or bfloat16, accumulated in float32, or int32; the result [M] is
float32 or int32, as accumulated. Any order of combining will do, so every step below has the same
first half: each thread runs along the row with a stride and keeps one number. What changes is how
256 numbers become one.

::

    x[row, :]   t0 t1 t2 ... t255 | t0 t1 t2 ... t255 | t0 ...      neighbours read neighbours

    tree        256 -> 128 -> 64 -> 32 -> 16 -> 8 -> 4 -> 2 -> 1    in shared memory, a barrier each
    shuffles    lane 0..31: + lane^16, + lane^8, + lane^4, + lane^2, + lane^1      in registers

M N FLOPs, and M N elements to be read once: memory is the ceiling. A warp's load of 32 float32
is one request of 4 sectors (2-byte elements: 2 sectors), all of them used. What it costs a
block of 256 threads to combine its numbers, counted by hand:

==========  ========  ===================  ========
step        barriers  shared wavefronts    shuffles
==========  ========  ===================  ========
tree        9         45                   0
warp        0         0                    5 a row
block       1         9                    5 a warp, then 5
redux       1         9                    1 a warp, then 1 (``redux.sync``)
vectorised  1         9                    5 a warp, then 5
==========  ========  ===================  ========

The tree's 45: 8 warps store; then 4, 2, 1, 1, 1, 1, 1, 1 warps take two loads and a store; one
load more. The 9 of the shuffles: 8 warps store one number each, one warp loads them.

The sum and the maximum differ in one function. Where C++ has a template parameter, a Python
function makes the kernel.

Sources: Harris, "Optimizing Parallel Reduction in CUDA", 2007 (the tree); Luitjens, "Faster
Parallel Reductions on Kepler", 2014 (shuffles); "PTX ISA", ``shfl.sync``, ``redux.sync``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import cuda

from llm_numba import reference
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

WARP = 32
WARPS = 8
THREADS = WARPS * WARP
FULL_WARP = 0xFFFFFFFF

DTYPES = ("float32", "float16", "bfloat16", "int32")


@cuda.jit(device=True)
def warp_sum(value):
    """Add float32 or int32 over the 32 lanes of a warp; each lane gets the sum.

    A butterfly: after the exchange with the lane 16 away, two lanes hold the same partial sum,
    then four, until all 32 do. Nothing has to be sent back. All lanes must take part.
    """
    for distance in (16, 8, 4, 2, 1):
        value = ptx.add(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def warp_max(value):
    """Find the largest float32 or int32 of a warp, NaN if there is one; see :func:`warp_sum`."""
    for distance in (16, 8, 4, 2, 1):
        value = ptx.maximum(value, cuda.shfl_xor_sync(FULL_WARP, value, distance))
    return value


@cuda.jit(device=True)
def warp_sum_redux(value):
    """Add int32 over a warp in one instruction, where the butterfly takes ten; sm_80."""
    return ptx.redux_add_sync(FULL_WARP, value)


@cuda.jit(device=True)
def warp_max_redux(value):
    """Find the largest int32 of a warp in one instruction; sm_80."""
    return ptx.redux_max_sync(FULL_WARP, value)


def _tree(combine):
    @cuda.jit
    def tree(x, y, neutral):
        """Fold the upper half of the threads onto the lower half, in shared memory.

        The halves are contiguous, so lanes beside each other touch banks beside each other and
        whole warps fall idle together. Still, each halving costs a barrier for all 256 threads,
        and below 32 threads most of a warp only waits.
        """
        values = cuda.shared.array(THREADS, y.dtype)
        row, t = cuda.blockIdx.x, cuda.threadIdx.x
        value = neutral
        for n in range(t, x.shape[1], THREADS):
            value = combine(value, ptx.widen(x[row, n]))
        values[t] = value
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if t < half:
                values[t] = combine(values[t], values[t + half])
            # Outside the branch: a barrier that some threads never reach hangs the block.
            cuda.syncthreads()
            half //= 2
        if t == 0:
            y[row] = values[0]

    return tree


def _warp(combine, across_warp):
    @cuda.jit
    def warp(x, y, neutral):
        """Give each row to one warp: shuffles, no shared memory, no barrier.

        Good for short rows. A long row has only 32 loads under way at a time, too few to keep
        memory busy unless there are thousands of rows.
        """
        row = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        # True or false for all lanes of a warp alike, so the shuffles find everybody.
        if row < x.shape[0]:
            value = neutral
            for n in range(cuda.threadIdx.x, x.shape[1], WARP):
                value = combine(value, ptx.widen(x[row, n]))
            value = across_warp(value)
            if cuda.threadIdx.x == 0:
                y[row] = value

    return warp


def _across_block(across_warp):
    @cuda.jit(device=True)
    def across_block(value, neutral, y):
        """Combine over a block: each warp by itself, then the first warp its 8 results.

        Complete in warp 0 only. `y` gives the type of the shared array.
        """
        partial = cuda.shared.array(WARPS, y.dtype)
        t = cuda.threadIdx.x
        value = across_warp(value)
        if t % WARP == 0:
            partial[t // WARP] = value
        cuda.syncthreads()
        if t < WARP:
            value = across_warp(partial[t] if t < WARPS else neutral)
        return value

    return across_block


def _block(combine, across_warp):
    across_block = _across_block(across_warp)

    @cuda.jit
    def block(x, y, neutral):
        """Give each row to a block whose warps reduce in registers: one barrier, not nine."""
        row = cuda.blockIdx.x
        value = neutral
        for n in range(cuda.threadIdx.x, x.shape[1], THREADS):
            value = combine(value, ptx.widen(x[row, n]))
        value = across_block(value, neutral, y)
        if cuda.threadIdx.x == 0:
            y[row] = value

    return block


def _redux(combine, across_warp):
    across_block = _across_block(across_warp)

    @cuda.jit
    def redux(x, y, neutral):
        """Let one instruction reduce a warp, where the butterfly takes ten; for integers.

        Only the function that this kernel was made with has changed. The latency of ten dependent
        instructions is gone; what a long row costs, its loads, is not.
        """
        row = cuda.blockIdx.x
        value = neutral
        for n in range(cuda.threadIdx.x, x.shape[1], THREADS):
            value = combine(value, ptx.widen(x[row, n]))
        value = across_block(value, neutral, y)
        if cuda.threadIdx.x == 0:
            y[row] = value

    return redux


def _vectorised(combine, across_warp):
    across_block = _across_block(across_warp)

    @cuda.jit
    def vectorised(x, y, neutral):
        """Load 16 bytes a thread: a quarter or an eighth of the loads, more bytes under way.

        A row may begin and end between two multiples of 16 bytes. What lies before the first and
        behind the last, fewer than 8 elements each, is loaded one by one.
        """
        row, t = cuda.blockIdx.x, cuda.threadIdx.x
        width = ptx.items16(x)
        begin = row * x.shape[1]
        end = begin + x.shape[1]
        first = min((begin + width - 1) // width * width, end)
        last = max(end // width * width, first)
        value = neutral
        if t < first - begin:
            value = combine(value, ptx.widen(x[row, t]))
        for n in range(first + t * width, last, THREADS * width):
            for item in ptx.load16(x, n):
                value = combine(value, item)
        if t < end - last:
            value = combine(value, ptx.widen(x[row, last - begin + t]))
        value = across_block(value, neutral, y)
        if t == 0:
            y[row] = value

    return vectorised


def row_sum(x: Any, *, out: Any = None, step: str = "vectorised", stream: Any = None) -> Any:
    """Add up each row.

    Parameters
    ----------
    x : float32, float16, bfloat16 or int32 [M, N]
        On a device.
    out : float32 [M], or int32 [M] of int32, optional
        Where the sums go.
    step : str
        Of ``LADDER``.
    stream : optional
        By default the current one.

    Returns
    -------
    float32 or int32 [M]
        `out`. 0 for rows without entries. Integers wrap.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    return _reduce(LADDER, x, out, step, stream)


def row_max(x: Any, *, out: Any = None, step: str = "vectorised", stream: Any = None) -> Any:
    """Find the largest entry of each row.

    Parameters
    ----------
    x : float32, float16, bfloat16 or int32 [M, N]
        On a device.
    out : float32 [M], or int32 [M] of int32, optional
        Where the maxima go.
    step : str
        Of ``MAX_LADDER``.
    stream : optional
        By default the current one.

    Returns
    -------
    float32 or int32 [M]
        `out`. NaN if any entry is NaN; -inf (or the least integer) for rows without entries.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    """
    return _reduce(MAX_LADDER, x, out, step, stream)


def _reduce(ladder: Ladder, x: Any, out: Any, step: str, stream: Any) -> Any:
    checks.array("x", x, ndim=2, dtype=DTYPES)
    checks.choice("step", step, [each.name for each in ladder.steps])
    dtype = _result_dtype(x)
    if out is None:
        out = empty(x.shape[:1], dtype, like=x)
    checks.array("out", out, dtype=dtype, shape=x.shape[:1], like=x)
    launch_all(ladder.step(step).plan(x=x, out=out), stream)
    return out


def _result_dtype(x: Any) -> str:
    return "int32" if storage_dtype(x) == "int32" else "float32"


@dataclass(frozen=True)
class _Reduction:
    """What tells one reduction from another, and its numbers that change nothing."""

    name: str
    reference: Callable[[np.ndarray], np.ndarray]
    combine: Any
    across_warp: Any
    across_warp_redux: Any
    neutral: dict[str, np.generic]


def _ladder(reduction: _Reduction) -> Ladder:
    combine, across_warp = reduction.combine, reduction.across_warp
    tree, warp = _tree(combine), _warp(combine, across_warp)
    block, vectorised = _block(combine, across_warp), _vectorised(combine, across_warp)
    redux = _redux(combine, reduction.across_warp_redux)

    def launch(kernel, x, out):
        args = (x, out, reduction.neutral[_result_dtype(x)])
        if kernel is warp:
            return (Launch(kernel, (-(-len(x) // WARPS),), (WARP, WARPS), args),)
        return (Launch(kernel, (len(x),), (THREADS,), args),)

    def plan_redux(x, out):
        # Floats stay with the butterfly: the instruction takes integers.
        return launch(redux if _result_dtype(x) == "int32" else block, x, out)

    def plan_vectorised(x, out):
        # A view may begin anywhere; 16-byte loads may not.
        return launch(vectorised if ptx.is_aligned16(x) else block, x, out)

    return Ladder(
        name=reduction.name,
        steps=(
            Step("tree", "Fold half onto half in shared memory.", partial(launch, tree), (tree,)),
            Step("warp", "A warp a row: shuffles, no barrier.", partial(launch, warp), (warp,)),
            Step("block", "Shuffles, one barrier, shuffles.", partial(launch, block), (block,)),
            Step(
                "redux",
                "Integers: one instruction in place of five shuffles and five additions.",
                plan_redux,
                (redux, block),
                (8, 0),
            ),
            Step(
                "vectorised",
                "16 bytes a load: fewer instructions, more bytes under way.",
                plan_vectorised,
                (vectorised, block),
            ),
        ),
        operands=_operands,
        expect=lambda x, out: {"out": reduction.reference(_exact(x))},
        dtypes=DTYPES,
        example=(16, 1024),
        axes="M N",
        ceiling="memory",
        fewest_bytes=lambda shape, itemsize: shape[0] * (shape[1] * itemsize + 4),
        flops=lambda shape: shape[0] * shape[1],
    )


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    rng = np.random.default_rng(seed)
    if dtype == np.int32:
        x = rng.integers(-(2**31), 2**31, size=shape, dtype=np.int32)
        return {"x": x, "out": np.full(shape[0], -1, np.int32)}
    x = rng.normal(size=shape).astype(dtype)
    return {"x": x, "out": np.full(shape[0], np.nan, np.float32)}


def _exact(x: np.ndarray) -> np.ndarray:
    return x if x.dtype == np.int32 else x.astype(np.float64)


LADDER = _ladder(
    _Reduction(
        name="row_sum",
        reference=reference.row_sum,
        combine=ptx.add,
        across_warp=warp_sum,
        across_warp_redux=warp_sum_redux,
        neutral={"float32": np.float32(0), "int32": np.int32(0)},
    )
)
MAX_LADDER = _ladder(
    _Reduction(
        name="row_max",
        reference=reference.row_max,
        combine=ptx.maximum,
        across_warp=warp_max,
        across_warp_redux=warp_max_redux,
        neutral={"float32": np.float32(-np.inf), "int32": np.int32(-(2**31))},
    )
)
