r"""The linear layer as a ladder of eleven steps, from one thread an output to 128.

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
    vectorised ..  first a packet of 16 bytes of a row, then a tile of outputs

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
vectorised     16, 16, 4          2                  1, 1                6
warp_tile      16, 16, 8          2                  1, 1                3
=============  =================  =================  ==================  ==================

(16 bytes a lane are 16 sectors, of which all bytes are used, as of the 4 of 4 bytes a lane. Lanes
of ``warp_tile`` store 4 neighbours of a row of C, half a sector; the other half follows soon.)
From ``warp_tile`` on memory is no longer what is waited for. What is left is counted in
instructions: of all that a warp issues, how many are multiply-adds, and how many of those get their
operands at once.

*Textbooks* write C = A B with B [K, N], and there "coalesced" means to swap the axes of the block:
neighbouring lanes then read neighbours of a row of B. W is B transposed. Both operands lie along
K, so swapping only exchanges their parts, 32 and 1 sectors against 1 and 32. Here lanes must run
along K while they load. That is why the tiled step, which loads along K and computes along N,
meets the bank conflict which one step later is padded away.

Sources: Boehm, "How to Optimize a CUDA Matmul Kernel for cuBLAS-like Performance", 2022; NVIDIA,
"CUDA C++ Best Practices Guide", "Shared Memory in Matrix Multiplication (C = AAᵀ)".
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm_config import candidates, rule, unsplit
from llm_numba.kernels.gemm_double_buffered import double_buffered
from llm_numba.kernels.gemm_one_output import (
    TILE,
    WARP,
    WARPS,
    gemm_coalesced,
    gemm_naive,
    gemm_padded,
    gemm_tiled,
)
from llm_numba.kernels.gemm_plans import (
    for_warp_tile,
    in_packets,
    kernel_of,
    or_register_tile,
    plan_of,
    plan_pipelined,
    plan_register_tile,
    plan_square,
    plan_warp_tile,
)
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.kernels.gemm_split_k import gemm_add_parts
from llm_numba.kernels.gemm_vectorised import vectorised
from llm_numba.kernels.gemm_warp_tile import warp_tile
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.packets import rounded_up
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

_DTYPES = ("float32", "float16", "bfloat16")
_EXAMPLE = (128, 128, 32)
_ASYNC_COPIES = (8, 0)  # the capability that has them; below it they are loads and stores

# -- Steps ----------------------------------------------------------------------------------------


def _in_tiles(M: int, N: int) -> tuple[int, int]:
    return math.ceil(M / TILE), math.ceil(N / TILE)


def _pipelined(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    config = unsplit(len(x), len(weight), storage_dtype(x))
    return plan_pipelined(config, x, weight, out, transposed=False, **options)


def _register_banks(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    config = unsplit(len(x), len(weight), storage_dtype(x))
    return plan_pipelined(config, x, weight, out, **options)


def _split_k(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    shape = len(x), len(weight), x.shape[1]
    config = choose(TUNABLE, shape, storage_dtype(x), like=x)
    return plan_pipelined(config, x, weight, out, **options)


def _tuned(config: Any, x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    if not in_packets(x, weight):
        return plan_register_tile(x=x, weight=weight, out=out, **options)
    return plan_pipelined(config, x, weight, out, **options)


def _kernels(make: Callable[[str], Iterable[Any]]) -> tuple[Any, ...]:
    """Return the kernels of all formats, and what is run where there are no whole packets."""
    return (*dict.fromkeys(each for dtype in _DTYPES for each in make(dtype)), gemm_register_tile)


def _kernels_of_unsplit(transposed: bool) -> tuple[Any, ...]:
    def make(dtype: str) -> list[Any]:
        return [kernel_of(dtype, unsplit(M, M, dtype), transposed=transposed) for M in (128, 1)]

    return _kernels(make)


def _kernels_of_split() -> tuple[Any, ...]:
    shapes = (_EXAMPLE, (1, 1, 2048))
    return _kernels(lambda dtype: [kernel_of(dtype, rule(shape, dtype)) for shape in shapes])


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
        Step(
            "naive",
            "One thread an output: simple, and a sector of memory for each number of A.",
            plan_of(
                gemm_naive,
                lambda M, N: (math.ceil(M / WARP), math.ceil(N / WARPS)),
                (WARP, WARPS),
            ),
            (gemm_naive,),
        ),
        Step(
            "coalesced",
            "One warp an output, lanes along K: all bytes of each sector are used.",
            plan_of(gemm_coalesced, lambda M, N: (math.ceil(M * N / WARPS),), (WARP, WARPS)),
            (gemm_coalesced,),
        ),
        Step(
            "tiled",
            "Tiles in shared memory: a number is loaded once for 32 uses, but columns conflict.",
            plan_of(gemm_tiled, _in_tiles, (TILE, TILE)),
            (gemm_tiled,),
        ),
        Step(
            "padded",
            "One unused column in the tile of W: its columns are free of bank conflicts.",
            plan_of(gemm_padded, _in_tiles, (TILE, TILE)),
            (gemm_padded,),
        ),
        Step(
            "register_tile",
            "8 x 8 outputs a thread: 16 numbers from shared memory for 64 multiply-adds.",
            plan_register_tile,
            (gemm_register_tile,),
        ),
        Step(
            "vectorised",
            "16 bytes at a time, from memory and from shared memory: a quarter of the loads.",
            or_register_tile(plan_square(vectorised)),
            _kernels(lambda dtype: [vectorised(dtype, side) for side in (16, 4)]),
        ),
        Step(
            "double_buffered",
            "The next slab of K comes in while this one is multiplied; one barrier a slab.",
            or_register_tile(plan_square(double_buffered)),
            _kernels(lambda dtype: [double_buffered(dtype, side) for side in (16, 4)]),
            _ASYNC_COPIES,
        ),
        Step(
            "warp_tile",
            "A square tile for each warp, 8 x 16 outputs a thread: fewer loads for a multiply-add.",
            or_register_tile(plan_warp_tile),
            _kernels(
                lambda dtype: [warp_tile(dtype, for_warp_tile(M, M, dtype)) for M in (128, 1)]
            ),
            _ASYNC_COPIES,
        ),
        Step(
            "pipelined",
            "What is multiplied next is on its way, from memory and from shared memory.",
            or_register_tile(_pipelined),
            _kernels_of_unsplit(transposed=False),
            _ASYNC_COPIES,
        ),
        Step(
            "register_banks",
            "Transposed tiles: a multiply-add takes its numbers from different banks of registers.",
            or_register_tile(_register_banks),
            _kernels_of_unsplit(transposed=True),
            _ASYNC_COPIES,
        ),
        Step(
            "split_k",
            "Tiles by the shape; where outputs are few, blocks that share K between them.",
            or_register_tile(_split_k),
            (*_kernels_of_split(), gemm_add_parts),
            _ASYNC_COPIES,
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=_DTYPES,
    example=_EXAMPLE,
    axes="M N K",
    ceiling="compute",
    fewest_bytes=lambda shape, itemsize: (
        (shape[0] * shape[2] + shape[1] * shape[2] + shape[0] * shape[1]) * itemsize
    ),
    flops=lambda shape: 2 * math.prod(shape),
)

TUNABLE = Tunable(
    ladder=LADDER,
    rule=rule,
    candidates=candidates,
    plan=_tuned,
    shapes=(
        (4096, 4096, 4096),
        (512, 4096, 4096),
        (64, 4096, 4096),
        (16, 4096, 14336),
    ),
    # Prompts have any number of rows; the next power of two stands for them.
    bucket=rounded_up,
)


def gemm(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out: Any = None,
    step: str = "split_k",
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
    out = checked(x, weight, bias, activation, residual, out)
    checks.choice("step", step, (each.name for each in LADDER.steps))
    plan = LADDER.step(step).plan
    options = {"bias": bias, "activation": activation, "residual": residual}
    launch_all(plan(x=x, weight=weight, out=out, **options), stream)
    return out


def checked(x: Any, weight: Any, bias: Any, activation: str | None, residual: Any, out: Any) -> Any:
    """Check the operands of :func:`gemm`, and make the result's array if there is none.

    Parameters
    ----------
    x, weight, bias, activation, residual, out
        As of :func:`gemm`.

    Returns
    -------
    [M, N] or [M, F]

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device.
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
    return out
