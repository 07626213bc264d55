"""From operands to launches on tensor cores; and what they cannot multiply, and why."""

import math
from typing import Any

from llm_numba.kernels import gemm, ptx
from llm_numba.kernels.gemm_plans import REACH, Plan, plan_of, with_operands
from llm_numba.kernels.gemm_tensorcore_pieces import PADDING, padded, swizzled
from llm_numba.kernels.gemm_tensorcore_pipelined import pipelined
from llm_numba.kernels.gemm_tensorcore_staged import staged
from llm_numba.kernels.gemm_tensorcore_tiles import EARLY, LARGE, Tile, lengthened, unsplit
from llm_numba.kernels.gemm_tensorcore_turns import bunched, interleaved, turning_for
from llm_numba.kernels.gemm_tensorcore_unstaged import unstaged
from llm_numba.runtime import Launch, has_capability, storage_dtype
from llm_numba.runtime.room import room_of

TENSOR_CORES = (8, 0)  # the capability that has the instruction for both formats
DTYPES = ("bfloat16", "float16")
# Rows of tiles whose blocks run side by side: with half as many columns they are a square of C.
GROUP = 16


def obstacle(x: Any, weight: Any, *others: Any) -> str | None:
    """Say why these operands cannot be multiplied on tensor cores; None if they can.

    Parameters
    ----------
    x, weight : array
    *others : array or None
        The result and the residual.

    Returns
    -------
    str or None
        A sentence for the reader of a log.
    """
    if storage_dtype(x) not in DTYPES:
        return f"Tensor cores multiply {' and '.join(DTYPES)} here, not {storage_dtype(x)}."
    if x.shape[1] % ptx.VECTOR[storage_dtype(x)]:
        return f"Rows of {x.shape[1]} numbers are no whole packets of 16 bytes."
    if not all(ptx.is_aligned16(each) for each in (x, weight, *others) if each is not None):
        return "An operand does not begin at a multiple of 16 bytes."
    if max(x.size, weight.size) >= REACH:
        return "An operand has more numbers than 32 bits can count."
    if not has_capability(x, TENSOR_CORES):
        return "The GPU is older than compute capability 8.0."
    return None


def or_gemm(plan: Plan) -> Plan:
    """Make a plan that falls back to the ladder of the ordinary units where it must.

    Parameters
    ----------
    plan : callable
    """

    def either(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
        why_not = obstacle(x, weight, out, options.get("residual"))
        chosen = gemm.LADDER.steps[-1].plan if why_not else plan
        return chosen(x=x, weight=weight, out=out, **options)

    return either


def plan_fragments(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan the step whose fragments come word by word; its operands are the ladder's."""
    tile = unsplit(len(x), len(weight), EARLY)
    kernel = unstaged(storage_dtype(x), tile, padded)
    return _plan_tiles(kernel, tile, tile.shared_bytes(1, PADDING))(x, weight, out, **options)


def plan_ldmatrix(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan the step whose fragments come by ``ldmatrix``."""
    tile = unsplit(len(x), len(weight), EARLY)
    kernel = unstaged(storage_dtype(x), tile, swizzled)
    return _plan_tiles(kernel, tile, tile.shared_bytes(1))(x, weight, out, **options)


def plan_staged(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan the step with several slabs under way."""
    tile = unsplit(len(x), len(weight), EARLY)
    kernel = staged(storage_dtype(x), tile)
    return _plan_tiles(kernel, tile, tile.shared_bytes(tile.stages))(x, weight, out, **options)


def _plan_tiles(kernel: Any, tile: Tile, shared_bytes: int) -> Plan:
    def grid(M: int, N: int) -> tuple[int, int]:
        return math.ceil(M / tile.rows), math.ceil(N / tile.columns)

    return plan_of(kernel, grid, (tile.threads,), shared_bytes)


def plan_large(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan the step of large warp tiles: blocks go down the columns of tiles."""
    return plan_grouped(x, weight, out, group=max(1, len(x)), **options)


def plan_grouped(
    x: Any, weight: Any, out: Any, group: int = GROUP, **options: Any
) -> tuple[Launch, ...]:
    """Plan the step whose blocks go through groups of rows."""
    tile = unsplit(len(x), len(weight), LARGE)
    return plan_pipelined(tile, x, weight, out, group=group, turning=bunched, **options)


def plan_long(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan the step of longer slabs."""
    return plan_interleaved(x, weight, out, turning=bunched, **options)


def plan_interleaved(
    x: Any, weight: Any, out: Any, turning: Any = interleaved, **options: Any
) -> tuple[Launch, ...]:
    """Plan the step whose copies and loads lie between multiplications."""
    tile = lengthened(unsplit(len(x), len(weight), LARGE), room_of(x).shared_bytes)
    return plan_pipelined(tile, x, weight, out, turning=turning, **options)


def plan_pipelined(
    tile: Tile,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    group: int = GROUP,
    turning: Any = None,
) -> tuple[Launch, ...]:
    """Plan a product by the last kernel, and the sum of its parts if there are several.

    Parameters
    ----------
    tile : Tile
    x, weight, out, bias, activation, residual
        The ladder's operands.
    group : int
        Rows of tiles whose blocks run side by side.
    turning : callable, optional
        Of :mod:`llm_numba.kernels.gemm_tensorcore_turns`; by default what is best for the tile.
    """
    storage, (M, K), N = storage_dtype(x), x.shape, len(weight)
    gated, splits = activation == "silu_mul", tile.splits
    turning = turning or turning_for(tile)
    kernel = pipelined(storage, tile._replace(splits=1), gated and splits == 1, turning)
    span = math.ceil(math.ceil(K / tile.slab) / splits) * tile.slab
    # A gate's two columns take the room of one of the result.
    grid = (tile.blocks_for(M, out.shape[1] * 2 if gated else N), 1, splits)
    launch = Launch(kernel, grid, (tile.threads,), (), tile.shared_bytes(tile.stages))
    numbers = group, span
    return with_operands(launch, numbers, splits, x, weight, out, bias, residual, activation)
