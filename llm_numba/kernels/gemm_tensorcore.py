r"""The linear layer on tensor cores, as a ladder: from fragments word by word to parts of K.

.. math:: C = \mathrm{act}(A W^T + b) + R

A is [M, K], W is [N, K] as checkpoints store it, C is [M, N]: float16 or bfloat16, all products
summed in float32. 2 M N K FLOPs; the fewest bytes are A, W and C (and R) once each. The ordinary
units of an H100, of which :mod:`llm_numba.kernels.gemm` is made, make 67 TFLOP/s by the data sheet.
Its tensor cores make 989, but not by ``mma.sync``, the instruction of a single warp: all of it is
kept for the instruction of four warps that came with that GPU.

So the question of every step is the same. A tensor core multiplies 16 x 8 x 16 numbers in six or
seven cycles. What has to happen in that time for its next operands to be in registers?

=============  =============================================================  ==================
step           what is new                                                    predicted
=============  =============================================================  ==================
fragments      ``mma.sync``; fragments word by word from padded rows          4 times the ordinary
ldmatrix       fragments by ``ldmatrix`` from swizzled rows: 6 loads for 24   1.2 times
staged         three slabs on their way while one is multiplied               1.7 times
warp_tile      64 x 64 outputs a warp, fragments while others are multiplied  1.4 times
grouped        blocks of a moment share rows and columns in the L2 cache      1.05 times
long_slabs     slabs of 64: fragments in time, half of the barriers           1.15 times
interleaved    copies and loads in the gaps that multiplications leave        1.2 times
split_k        tiles by the shape; parts of K where outputs are few           large ones: none
=============  =============================================================  ==================

The predictions were written down before anything was measured: of loads and multiplications in
shared memory's and the schedulers' cycles, see the steps' own files.

What cannot be multiplied so goes to :mod:`llm_numba.kernels.gemm`, and
:func:`~llm_numba.kernels.gemm_tensorcore_plans.obstacle` says why.

Sources: Kerr, Merrill, Demouth and Tran, "CUTLASS: Fast Linear Algebra in CUDA C++", 2017; NVIDIA,
"PTX ISA", ``mma``, ``ldmatrix``, ``cp.async``.
"""

from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.kernels import checks, gemm
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.kernels.gemm_split_k import gemm_add_parts
from llm_numba.kernels.gemm_tensorcore_pieces import padded, swizzled
from llm_numba.kernels.gemm_tensorcore_pipelined import pipelined
from llm_numba.kernels.gemm_tensorcore_plans import (
    DTYPES,
    TENSOR_CORES,
    or_gemm,
    plan_fragments,
    plan_grouped,
    plan_interleaved,
    plan_large,
    plan_ldmatrix,
    plan_long,
    plan_pipelined,
    plan_staged,
)
from llm_numba.kernels.gemm_tensorcore_staged import staged
from llm_numba.kernels.gemm_tensorcore_tiles import (
    EARLY,
    LARGE,
    SPECK,
    candidates,
    lengthened,
    rule,
)
from llm_numba.kernels.gemm_tensorcore_turns import bunched, interleaved, turning_for
from llm_numba.kernels.gemm_tensorcore_unstaged import unstaged
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.packets import rounded_up
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import Launch, launch_all, storage_dtype
from llm_numba.runtime.room import room_of

_EXAMPLE = (128, 256, 64)

# -- Steps ----------------------------------------------------------------------------------------


def _split_k(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    shape = len(x), len(weight), x.shape[1]
    tile = lengthened(choose(TUNABLE, shape, storage_dtype(x), like=x), room_of(x).shared_bytes)
    return plan_pipelined(tile, x, weight, out, **options)


def _kernels(make: Any, *tiles: Any) -> tuple[Any, ...]:
    """Return the kernels of both formats, and what runs where there is an obstacle."""
    made = [make(dtype, tile) for dtype in DTYPES for tile in tiles]
    return (*dict.fromkeys(made), gemm_register_tile)


def _operands(shape: tuple[int, int, int], dtype: np.dtype, seed: int) -> Operands:
    M, N, K = shape
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((M, K), np.float32).astype(dtype),
        "weight": rng.standard_normal((N, K), np.float32).astype(dtype),
        "out": np.full((M, N), np.nan, dtype),
    }


def _expect(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> dict[str, np.ndarray]:
    return {"out": reference.linear(x.astype(np.float64), weight.astype(np.float64))}


def _bunched(dtype: str, tile: Any) -> Any:
    return pipelined(dtype, tile, False, bunched)


def _interleaved(dtype: str, tile: Any) -> Any:
    return pipelined(dtype, tile, False, interleaved)


def _ruled(dtype: str, tile: Any) -> Any:
    return pipelined(dtype, tile, False, turning_for(tile))


LADDER = Ladder(
    name="gemm_tensorcore",
    steps=(
        Step(
            "fragments",
            "A warp multiplies 16 x 8 x 16 numbers at once; it collects them word by word.",
            or_gemm(plan_fragments),
            _kernels(lambda dtype, tile: unstaged(dtype, tile, padded), EARLY, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "ldmatrix",
            "Four matrices of fragments in one load, out of swizzled rows: a quarter of the loads.",
            or_gemm(plan_ldmatrix),
            _kernels(lambda dtype, tile: unstaged(dtype, tile, swizzled), EARLY, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "staged",
            "Three slabs of K are on their way while one is multiplied; one barrier a slab.",
            or_gemm(plan_staged),
            _kernels(staged, EARLY, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "warp_tile",
            "64 x 64 outputs a warp, and its next fragments come while these are multiplied.",
            or_gemm(plan_large),
            _kernels(_bunched, LARGE, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "grouped",
            "Blocks that run side by side make a square of C: they share their operands in L2.",
            or_gemm(plan_grouped),
            _kernels(_bunched, LARGE, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "long_slabs",
            "Slabs of 64 where shared memory has room: half of the barriers, fragments in time.",
            or_gemm(plan_long),
            _kernels(_bunched, LARGE, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "interleaved",
            "Copies and loads of fragments in the gaps that multiplications leave: no pause.",
            or_gemm(plan_interleaved),
            _kernels(_interleaved, LARGE, SPECK),
            TENSOR_CORES,
        ),
        Step(
            "split_k",
            "Tiles by the shape; where outputs are few, blocks that share K between them.",
            or_gemm(_split_k),
            (
                *_kernels(_ruled, rule(_EXAMPLE, DTYPES[0])._replace(splits=1), SPECK),
                gemm_add_parts,
            ),
            TENSOR_CORES,
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=DTYPES,
    example=_EXAMPLE,
    axes="M N K",
    ceiling="compute",
    fewest_bytes=gemm.LADDER.fewest_bytes,
    flops=gemm.LADDER.flops,
)


def _tuned(tile: Any, x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return or_gemm(lambda **operands: plan_pipelined(tile, **operands))(x, weight, out, **options)


TUNABLE = Tunable(
    ladder=LADDER,
    rule=rule,
    candidates=candidates,
    plan=_tuned,
    shapes=tuple(
        (M, N, K)
        for N, K in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
        for M in (64, 256, 2048)
    ),
    # Prompts have any number of rows; the next power of two stands for them.
    bucket=rounded_up,
)


def gemm_tensorcore(
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
    """Multiply by a weight matrix on tensor cores, with bias, activation and residual.

    Where there is an :func:`~llm_numba.kernels.gemm_tensorcore_plans.obstacle`,
    :func:`llm_numba.kernels.gemm.gemm` multiplies.

    Parameters
    ----------
    x : float16 or bfloat16 [M, K]
        Contiguous, on a device.
    weight : [N, K]
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
    residual : [M, N] or [M, F], optional
    out : [M, N] or [M, F], optional
        As of :func:`llm_numba.kernels.gemm.gemm`.
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
    """
    out = gemm.checked(x, weight, bias, activation, residual, out)
    checks.choice("step", step, (each.name for each in LADDER.steps))
    options = {"bias": bias, "activation": activation, "residual": residual}
    launch_all(LADDER.step(step).plan(x=x, weight=weight, out=out, **options), stream)
    return out
