r"""The linear layer as a ladder of five kernels, from one thread an output to 64.

.. math:: C = \mathrm{act}(A W^T + b) + R

A is [M, K], W is [N, K] as checkpoints store it, C is [M, N]: float32, float16 or bfloat16, all
products summed in float32. 2 M N K FLOPs; the fewest bytes are A, W and C (and R) once each. Each
number of A serves N outputs, each of W serves M, so with M and N in the hundreds arithmetic is the
ceiling. With M = 1 it is memory.

::

    A [M, K]  row m  | 0 1 2 ... K-1 |      C[m, n] = row m of A times row n of W,
    W [N, K]  row n  | 0 1 2 ... K-1 |      both of them contiguous in memory

                   a lane of a warp is
    naive          a row m              32 rows of A, one number of W
    coalesced      a place k            32 neighbours of a row of A, 32 of a row of W; one output
    tiled, padded  first a place k,     neighbours again, into shared memory;
                   then a column n      a row of 32 outputs, out of shared memory
    register_tile  the same             8 x 8 outputs a thread

What a warp's requests cost in float32 (whole tiles, K a multiple of 32), counted by hand, in
sectors of 32 bytes of global memory and wavefronts of shared memory:

=============  =================  =================  ==================  ==================
step           sectors a request  sectors for 1,024  ways of bank        wavefronts for
               of A, W, C         multiply-adds      conflict on A, W    1,024 multiply-adds
=============  =================  =================  ==================  ==================
naive          32, 1, 32          1,056              no shared memory    none
coalesced      4, 4, 1            256                no shared memory    none
tiled          4, 4, 4            8                  1, 32               1,056
padded         4, 4, 4            8                  1, 1                64
register_tile  4, 4, 4            2                  1, 1                8
=============  =================  =================  ==================  ==================

*Textbooks* write C = A B with B [K, N], and there "coalesced" means to swap the axes of the block:
neighbouring lanes then read neighbours of a row of B. W is B transposed. Both operands lie along
K, so swapping only exchanges their parts, 32 and 1 sectors against 1 and 32. Here lanes must run
along K while they load. That is why the tiled step, which loads along K and computes along N,
meets the bank conflict which one step later is padded away.

Sources: Boehm, "How to Optimize a CUDA Matmul Kernel for cuBLAS-like Performance", 2022; NVIDIA,
"CUDA C++ Best Practices Guide", "Shared Memory in Matrix Multiplication (C = AAᵀ)".
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, float32

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm_epilogue import finish
from llm_numba.kernels.gemm_register_tile import BLOCK_TILE, THREADS, gemm_register_tile
from llm_numba.kernels.gemm_split_k import add_parts
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.reduce import warp_sum
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

WARP = 32
WARPS = 8
TILE = 32
PITCH = TILE + 1  # words from row to row of a padded tile


@cuda.jit
def gemm_naive(a, w, bias, residual, activation, c):
    """One thread an output, and lane after lane down a column of C.

    For each k the 32 lanes read 32 rows of A: 32 sectors, of which 4 bytes each are used. They all
    want the same number of W, one sector. The store hits 32 sectors again.
    """
    row, column = cuda.grid(2)
    if row < c.shape[0] and column < c.shape[1]:
        total = float32(0)
        for k in range(a.shape[1]):
            total += ptx.to_float(a[row, k]) * ptx.to_float(w[column, k])
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_coalesced(a, w, bias, residual, activation, c):
    """One warp an output, its lanes along K: 32 neighbours are 4 sectors, all of them used.

    A quarter of the naive sectors, and for few rows (decoding: M = 1) already the right shape,
    because W is read once. For many rows it is not: every output reads its whole row of A and of
    W, two numbers for each multiply-add.
    """
    output = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
    row = output // c.shape[1]
    column = output % c.shape[1]
    # True or false for all lanes of a warp alike, so that the shuffles find everybody.
    if row < c.shape[0]:
        total = float32(0)
        for k in range(cuda.threadIdx.x, a.shape[1], WARP):
            total += ptx.to_float(a[row, k]) * ptx.to_float(w[column, k])
        total = warp_sum(total)
        if cuda.threadIdx.x == 0:
            value = finish(total, row, column, bias, residual, activation)
            c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_tiled(a, w, bias, residual, activation, c):
    """Each number that a block loads is used 32 times, out of shared memory.

    A block makes 32 x 32 outputs. Tiles of A and W, 32 x 32 each, come in with lanes along K. Then
    a warp is a row of C: for one k its lanes read one number of a_tile, a broadcast, and a column
    of w_tile. Rows of w_tile are 32 words apart, so that column is 32 words of one bank: 32
    wavefronts where one would do.

    Tiles hold float32: each number is widened once, when it is stored, and not at each of 32 uses.
    Beyond the edges they hold zeros, which add nothing.
    """
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.x * TILE + ty
    column = cuda.blockIdx.y * TILE + tx
    w_row = cuda.blockIdx.y * TILE + ty
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, TILE), float32)
    total = float32(0)
    for k in range(tx, a.shape[1] + tx, TILE):
        a_in = row < a.shape[0] and k < a.shape[1]
        w_in = w_row < w.shape[0] and k < w.shape[1]
        a_tile[ty, tx] = ptx.to_float(a[row, k]) if a_in else float32(0)
        w_tile[ty, tx] = ptx.to_float(w[w_row, k]) if w_in else float32(0)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
        # Nobody may overwrite the tiles while somebody still reads them.
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


@cuda.jit
def gemm_padded(a, w, bias, residual, activation, c):
    """One unused column in w_tile: rows are 33 words apart, and a column is 32 different banks.

    Only the tile that is read down a column needs it. Padding a_tile, as is often advised, changes
    nothing: its reads were broadcasts. What must be padded by is a *word* of 4 bytes. A tile of
    halves has rows of 16 words, so its columns conflict 16 ways. One half more does not finish the
    work: even columns are free of conflict, odd ones still conflict 2 ways, and every other row
    begins in the middle of a word, where no load of two halves, let alone of eight, may begin. Two
    halves (17 words a row) would do for single loads; eight (20 words) for loads of 16 bytes.
    """
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    row = cuda.blockIdx.x * TILE + ty
    column = cuda.blockIdx.y * TILE + tx
    w_row = cuda.blockIdx.y * TILE + ty
    a_tile = cuda.shared.array((TILE, TILE), float32)
    w_tile = cuda.shared.array((TILE, PITCH), float32)
    total = float32(0)
    for k in range(tx, a.shape[1] + tx, TILE):
        a_in = row < a.shape[0] and k < a.shape[1]
        w_in = w_row < w.shape[0] and k < w.shape[1]
        a_tile[ty, tx] = ptx.to_float(a[row, k]) if a_in else float32(0)
        w_tile[ty, tx] = ptx.to_float(w[w_row, k]) if w_in else float32(0)
        cuda.syncthreads()
        for i in range(TILE):
            total += a_tile[ty, i] * w_tile[tx, i]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        value = finish(total, row, column, bias, residual, activation)
        c[row, column] = ptx.from_float(c, value)


# -- Steps ----------------------------------------------------------------------------------------


def _step(
    name: str,
    idea: str,
    kernel: Any,
    block: tuple[int, int],
    grid: Callable[[int, int], tuple[int, ...]],
) -> Step:
    """Make a step from its kernel and the grid that covers [M, N] outputs."""

    def plan(
        x: Any,
        weight: Any,
        out: Any,
        bias: Any = None,
        activation: str | None = None,
        residual: Any = None,
    ) -> tuple[Launch, ...]:
        if bias is None:
            bias = empty((0,), x.dtype, like=x)
        if residual is None:
            residual = empty((0, 0), out.dtype, like=x)
        if activation == "silu_mul":
            M, N = len(x), len(weight)
            product = empty((1, M, N), "float32", like=x)
            nothing = empty((0,), x.dtype, like=x), empty((0, 0), out.dtype, like=x)
            return (
                Launch(kernel, grid(M, N), block, (x, weight, *nothing, 0, product[0])),
                add_parts(product, bias, residual, 0, out),
            )
        args = (x, weight, bias, residual, ACTIVATIONS[activation], out)
        return (Launch(kernel, grid(*out.shape), block, args),)

    return Step(name, idea, plan, (kernel,))


def _operands(shape: tuple[int, int, int], dtype: np.dtype, seed: int) -> Operands:
    M, N, K = shape
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((M, K)).astype(dtype),
        "weight": rng.standard_normal((N, K)).astype(dtype),
        "out": np.full((M, N), np.nan, dtype),
    }


def _expect(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> dict[str, np.ndarray]:
    return {"out": reference.linear(x.astype(np.float64), weight.astype(np.float64))}


LADDER = Ladder(
    name="gemm",
    steps=(
        _step(
            "naive",
            "One thread an output: simple, and a sector of memory for each number of A.",
            gemm_naive,
            (WARP, WARPS),
            lambda M, N: (math.ceil(M / WARP), math.ceil(N / WARPS)),
        ),
        _step(
            "coalesced",
            "One warp an output, lanes along K: all bytes of each sector are used.",
            gemm_coalesced,
            (WARP, WARPS),
            lambda M, N: (math.ceil(M * N / WARPS),),
        ),
        _step(
            "tiled",
            "Tiles in shared memory: a number is loaded once for 32 uses, but columns conflict.",
            gemm_tiled,
            (TILE, TILE),
            lambda M, N: (math.ceil(M / TILE), math.ceil(N / TILE)),
        ),
        _step(
            "padded",
            "One unused column in the tile of W: its columns are free of bank conflicts.",
            gemm_padded,
            (TILE, TILE),
            lambda M, N: (math.ceil(M / TILE), math.ceil(N / TILE)),
        ),
        _step(
            "register_tile",
            "8 x 8 outputs a thread: 16 numbers from shared memory for 64 multiply-adds.",
            gemm_register_tile,
            (THREADS, THREADS),
            lambda M, N: (math.ceil(M / BLOCK_TILE), math.ceil(N / BLOCK_TILE)),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(128, 128, 32),
    axes="M N K",
    ceiling="compute",
    fewest_bytes=lambda shape, itemsize: (
        (shape[0] * shape[2] + shape[1] * shape[2] + shape[0] * shape[1]) * itemsize
    ),
    flops=lambda shape: 2 * math.prod(shape),
)


def gemm(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out: Any = None,
    step: str = "register_tile",
    stream: Any = None,
) -> Any:
    """Multiply by a weight matrix, with bias, activation and residual as an epilogue.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, K]
        Contiguous, on a device.
    weight : [N, K]
        Like `bias` of the dtype of `x`, and like all other arrays on its device.
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
        With ``"silu_mul"`` N is 2F, the rows of the gate before those of up, and column f of the
        result is SiLU of column f times column F + f.
    residual : [M, N] or [M, F], optional
        Added after the activation; of the dtype of the result.
    out : [M, N] or [M, F], optional
        Where the result goes, of the dtype of `x` or float32; `residual` itself is allowed, other
        operands are not.
    step : str
        A step of :data:`LADDER`.
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    [M, N] or [M, F]
        `out`, or a new array of the dtype of `x`.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, or there is no such step.
    LaunchError
        If N is more than the grid's second axis can count: 524,280 and up, by the step.
    """
    checks.array("x", x, ndim=2)
    same = {"dtype": storage_dtype(x), "like": x}
    M, K = x.shape
    checks.array("weight", weight, shape=(None, K), **same)
    N = weight.shape[0]
    if bias is not None:
        checks.array("bias", bias, shape=(N,), **same)
    if activation is not None:
        checks.choice("activation", activation, [*filter(None, ACTIVATIONS), "silu_mul"])
    if activation == "silu_mul":
        if N % 2:
            raise KernelArgumentError(
                f"Argument 'weight' has {N} rows.", "With silu_mul, half of them are the gate's."
            )
        N //= 2
    if out is None:
        out = empty((M, N), x.dtype, like=x)
    checks.array("out", out, shape=(M, N), dtype={storage_dtype(x), "float32"}, like=x)
    if residual is not None:
        checks.array("residual", residual, shape=(M, N), dtype=storage_dtype(out), like=x)
    checks.choice("step", step, (each.name for each in LADDER.steps))
    plan = LADDER.step(step).plan
    launch_all(plan(x, weight, out, bias, activation, residual), stream)
    return out
