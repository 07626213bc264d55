"""The linear layer on Hopper: the product with its epilogue in one kernel.

The kernels are those of :mod:`llm_numba.kernels.gemm_hopper`, the epilogues those of
:mod:`llm_numba.kernels.gemm_hopper_epilogue`. Here is decided how both meet the operands.
"""

from typing import Any

from llm_numba.kernels import gemm
from llm_numba.kernels.gemm_hopper import (
    TOGETHER,
    is_paired,
    require_addressable,
    require_hopper,
    tiles_of,
)
from llm_numba.kernels.gemm_hopper_epilogue import epilogue
from llm_numba.kernels.gemm_hopper_pieces import (
    BY_THREADS,
    GROUP_ROWS,
    GROUP_THREADS,
    Ending,
    Tile,
)
from llm_numba.kernels.gemm_hopper_plans import COLUMN_TIME, tile_for
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_split import plan_split
from llm_numba.kernels.gemm_hopper_stored import BOX_COLUMNS, BY_ENGINE, staging_bytes
from llm_numba.kernels.gemm_plans import present
from llm_numba.runtime import Launch, launch_all, storage_dtype, tensor_map
from llm_numba.runtime.room import room_of
from llm_numba.runtime.tensor_maps import why_no_map

# An estimate: on fewer SMs the smallest tiles take as long as `mma.sync` does on all of them. It is
# of 132 SMs and of weights of 4096 x 4096.
FEWEST_TILES = 48
# With a gate half of a tile's columns are stored, and these are whole boxes.
_GATED = [each for each in COLUMN_TIME if each.columns % (2 * BOX_COLUMNS) == 0]
_SMALLEST = min(COLUMN_TIME, key=lambda tile: tile.columns)


def blocks_for(tile: Tile, ending: Ending, out: Any) -> int:
    """Return how many blocks run: one for each SM, or for each tile if these are fewer.

    Parameters
    ----------
    tile : Tile
    ending : Ending
    out : [M, N] or [M, F]
    """
    return min(_tiles_of(tile, ending, out), room_of(out).multiprocessors)


def _tiles_of(tile: Tile, ending: Ending, out: Any) -> int:
    return tiles_of(tile._replace(columns=ending.columns(tile)), out)


def fills(out: Any, activation: str | None) -> bool:
    """Tell whether tiles are enough for these kernels to be the faster ones.

    Parameters
    ----------
    out : [M, N] or [M, F]
    activation : str or None
    """
    ending = epilogue(activation, False, False, True)
    return _tiles_of(_SMALLEST, ending, out) >= FEWEST_TILES


def whole_tile(M: int, N: int, gated: bool, multiprocessors: int) -> Tile:
    """Choose the tile whose waves take the least time.

    Parameters
    ----------
    M, N : int
        Rows of x, and of the weight.
    gated : bool
    multiprocessors : int
        Of the GPU.
    """
    return tile_for(M, N, multiprocessors, tiles=_GATED if gated else COLUMN_TIME)


def plan_fused(
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    tile: Tile | None = None,
) -> tuple[Launch, ...]:
    """Plan a product with its epilogue.

    Parameters
    ----------
    x, weight, out, bias, activation, residual
        As of :func:`gemm_fused`, checked; :func:`~llm_numba.kernels.gemm_hopper.why_not` has no
        reason against them.
    tile : Tile, optional
        By default that of :func:`whole_tile`.
    """
    others = [each for each in (bias, residual) if each is not None]
    as_stored = storage_dtype(out) == storage_dtype(x)
    by_engine = as_stored and not why_no_map(out) and all(map(is_paired, others))
    if others or activation:
        # Of registers not enough would be left for an activation and for the places of both.
        alone = residual is not None and activation is None
        brought = alone and by_engine and not why_no_map(residual)
        ending = epilogue(activation, bias is not None, residual is not None, by_engine, brought)
    else:
        ending = BY_ENGINE if by_engine else BY_THREADS
    if tile is None:
        tile = whole_tile(len(x), len(weight), ending.gated, room_of(out).multiprocessors)
    how = tensor_map(out, GROUP_ROWS) if by_engine else is_paired(out)
    maps = tensor_map(x, tile.rows), tensor_map(weight, ending.columns(tile))
    blocks = blocks_for(tile, ending, out)
    bias, beside = present(bias, residual, x, out)
    if ending.behind:
        beside = tensor_map(residual, tile.rows)
    args = (*maps, x.shape[1], out, TOGETHER, how, bias, beside)
    threads = GROUP_THREADS * (1 + tile.groups)
    staging = staging_bytes(tile) if by_engine else 0
    kernel = specialised(storage_dtype(x), tile, ending)
    return (Launch(kernel, (blocks,), (threads,), args, tile.shared_bytes + staging),)


def gemm_fused(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out: Any = None,
    cut: tuple[Tile, int] | None = None,
    stream: Any = None,
) -> Any:
    """Multiply by a weight matrix on an H100 or H200, with bias, activation and residual.

    Parameters
    ----------
    x : float16 or bfloat16 [M, K]
        Contiguous, on a device, at a multiple of 16 bytes; K is a multiple of 8.
    weight : [N, K]
        Like `x`.
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
    residual : [M, N] or [M, F], optional
    out : [M, N] or [M, F], optional
        As of :func:`llm_numba.kernels.gemm.gemm`.
    cut : (Tile, int), optional
        Of :data:`~llm_numba.kernels.gemm_hopper_split.SPLIT_SLAB`: a tile, and how many blocks
        share its K. By default nobody does.
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    [M, N] or [M, F]
        `out`, or a new array of the dtype of `x`.

    Raises
    ------
    DeviceError
        If the GPU is of another compute capability than 9.0.
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, or the copy engine cannot
        address `x` or `weight`.
    """
    out = gemm.checked(x, weight, bias, activation, residual, out)
    require_hopper(x)
    if not out.size:
        return out
    require_addressable(x, weight)
    options = {"bias": bias, "activation": activation, "residual": residual}
    made = (
        plan_split(*cut, x, weight, out, **options)
        if cut
        else plan_fused(x, weight, out, **options)
    )
    launch_all(made, stream)
    return out
