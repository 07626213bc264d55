"""The launches of the GEMV ladder: which kernel, which grid, and how much is under way.

Two numbers have no best value that reasoning finds: how many rows of weights a block reads at a
time, and how many packets of each. They are the :class:`~llm_numba.kernels.gemv_packets.Config`,
for which there is a rule here and a table that may overrule it. How many warps share a row is no
such number. It decides in which order products are added, so it follows from N and K alone.

Tensor cores take rows of weights by the 16. What else a warp of them has under way is a
:class:`~llm_numba.kernels.gemv_tensor.Tile`, chosen by M alone.
"""

import math
from typing import Any

import numpy as np

from llm_numba.kernels import ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemv_packets import (
    WARPS,
    Config,
    split_kernel,
    vectorised_kernel,
)
from llm_numba.kernels.gemv_scalar import naive_kernel, warp_kernel
from llm_numba.kernels.gemv_tensor import GROUP, ROWS, SPAN, Tile, tensor_kernel
from llm_numba.kernels.reduce import WARP
from llm_numba.runtime import Launch, empty, has_capability, may_overlap, storage_dtype

Shape = tuple[int, int, int]

_NAIVE_THREADS = 128
_MOST_SUMS = 32  # rows of weights times rows of x: what a warp adds up by one exchange
_MOST_ROWS, _MOST_PACKETS = 4, 4  # of a lane; each packet along K takes one of x, too
_UNDER_WAY = {1: 8, 2: 8, 4: 8, 8: 4}  # packets of a lane, by the rows of x
_MOST_WARPS = 4  # that share a row; four times as many where rows are few
_BUSY_WARPS = 2048  # 16 on each of 128 SMs

TENSOR_CORES = (8, 0)  # the capability that has those of bfloat16
TILES = (Tile(1, 4), Tile(2, 4), Tile(4, 2))  # by the rows of x
_SMS = 132  # of an H100


def plan_naive(**operands: Any) -> tuple[Launch, ...]:
    """Plan the first step; operands as :func:`plan_config` takes them."""
    M, N = operands["out"].shape
    kernel, grid = naive_kernel(*_variant(**operands)), (math.ceil(N / _NAIVE_THREADS), M)
    return (Launch(kernel, grid, (_NAIVE_THREADS,), args_of(**operands)),)


def plan_warp(**operands: Any) -> tuple[Launch, ...]:
    """Plan the second step: a warp a row."""
    return _plan_rows(warp_kernel, operands)


def plan_vectorised(**operands: Any) -> tuple[Launch, ...]:
    """Plan the third step: a warp a row, 16 bytes at a time."""
    return _plan_rows(vectorised_kernel if _in_packets(**operands) else warp_kernel, operands)


def plan_in_flight(**operands: Any) -> tuple[Launch, ...]:
    """Plan the fourth step: 8 packets of 4 rows under way, and no row shared by warps."""
    M = len(operands["x"])
    rows = _most_rows(M)
    config = Config(rows, _UNDER_WAY[rows_compiled(M)] // rows)
    return plan_config(config, warps=1, **operands)


def plan_config(config: Config, *, warps: int | None = None, **operands: Any) -> tuple[Launch, ...]:
    """Plan the fifth step.

    Parameters
    ----------
    config : Config
    warps : int, optional
        That share a row of weights; by default what :func:`warps_of_row` says.
    **operands
        ``x``, ``weight`` and ``out``, and what :func:`llm_numba.kernels.gemv.gemv` takes beside
        them: ``bias``, ``activation``, ``residual``, ``norm_weight``, ``eps``.

    Returns
    -------
    tuple of Launch
    """
    if not _in_packets(**operands):
        return _plan_rows(warp_kernel, operands)
    x, weight, out = operands["x"], operands["weight"], operands["out"]
    gated, normed = _variant(**operands)
    if warps is None:
        warps = warps_of_row(*weight.shape, storage_dtype(x))
    rows = max(2, config.rows) if gated else config.rows
    variant = gated, normed, may_overlap()
    kernel = split_kernel(rows_compiled(len(x)), config._replace(rows=rows), warps, *variant)
    grid = (math.ceil(out.shape[1] / (rows // 2 if gated else rows)),)
    return (Launch(kernel, grid, (WARP, warps), args_of(**operands)),)


def plan_tile(tile: Tile, *, warps: int | None = None, **operands: Any) -> tuple[Launch, ...]:
    """Plan the last step.

    Parameters
    ----------
    tile : Tile
    warps : int, optional
        That share the rows of a tile; by default what :func:`warps_of_tile` says.
    **operands
        As of :func:`plan_config`.

    Returns
    -------
    tuple of Launch
    """
    weight, out = operands["weight"], operands["out"]
    gated, normed = _variant(**operands)
    if warps is None:
        warps = warps_of_tile(tile, *weight.shape)
    kernel = tensor_kernel(tile, warps, gated, normed, may_overlap())
    grid = (math.ceil(out.shape[1] / (ROWS // 2 if gated else ROWS)),)
    return (Launch(kernel, grid, (WARP, warps), args_of(**operands)),)


def rule(shape: Shape, dtype: str) -> Config:
    """Choose how much a lane has under way: 8 packets, and 4 where M leaves no more registers.

    They are of 4 rows of weights, which spares loads of x, if so many rows are left for all SMs;
    else of fewer. Of one row, 4 packets.

    Parameters
    ----------
    shape : tuple of int
        M, N, K.
    dtype : str

    Returns
    -------
    Config
    """
    M, N, K = shape
    rows, warps = _most_rows(M), warps_of_row(N, K, dtype)
    while rows > 1 and N * warps < rows * _BUSY_WARPS:
        rows //= 2
    turns = max(1, K // (warps * WARP * ptx.VECTOR[dtype]))
    packets = min(_MOST_PACKETS, _UNDER_WAY[rows_compiled(M)] // rows)
    while packets > turns:
        packets //= 2
    return Config(rows, packets)


def candidates(shape: Shape, dtype: str) -> tuple[Config, ...]:
    """List what may be tried in place of the rule's choice.

    Parameters
    ----------
    shape : tuple of int
        M, N, K.
    dtype : str

    Returns
    -------
    tuple of Config
    """
    M = rows_compiled(shape[0])
    sensible = {
        Config(rows, packets)
        for rows in (1, 2, _MOST_ROWS)
        for packets in (1, 2, _MOST_PACKETS)
        if rows * M <= _MOST_SUMS and 4 <= rows * packets <= _UNDER_WAY[M]
    }
    return tuple(sorted(sensible | {rule(shape, dtype)}))


def warps_of_row(N: int, K: int, dtype: str) -> int:
    """Choose how many warps share a row of weights, whatever the rows of x.

    As many as have two packets a lane, up to 4; and up to 16 where rows are few.

    Parameters
    ----------
    N, K : int
    dtype : str

    Returns
    -------
    int
        A power of two.
    """
    turns = K // (ptx.VECTOR[dtype] * WARP)
    warps = 1
    while 4 * warps <= turns and (
        warps < _MOST_WARPS or (warps < 4 * _MOST_WARPS and N * warps < _BUSY_WARPS)
    ):
        warps *= 2
    return warps


def tile_for(M: int) -> Tile:
    """Choose what a warp multiplies at a time, by the rows of x.

    Parameters
    ----------
    M : int
        Up to 32.

    Returns
    -------
    Tile
    """
    return next(tile for tile in TILES if GROUP * tile.columns >= M)


def warps_of_tile(tile: Tile, N: int, K: int) -> int:
    """Choose how many warps share the rows of a tile, whatever the rows of x.

    With one column of x, as many of 4, 8 and 16 as leave room for all blocks at a time, so that
    none is left to run alone in the end; 8 where there are more blocks than that. More columns
    take the registers of many warps: 8 where each SM has a block to itself, and else 4.

    Parameters
    ----------
    tile : Tile
    N, K : int

    Returns
    -------
    int
        A power of two; no more than have numbers along K.
    """
    blocks = math.ceil(N / ROWS)
    if tile.columns > 1:
        warps = 8 if blocks <= _SMS else 4
    else:
        fitting = [each for each in (16, 8, 4) if blocks * each <= _BUSY_WARPS]
        warps = fitting[0] if fitting else 8
    while warps > 1 and warps * SPAN > K:
        warps //= 2
    return warps


def fits_tensor_cores(x: Any, weight: Any, norm_weight: Any = None, **others: Any) -> bool:
    """Tell whether the last step can multiply these operands.

    They must be halves in whole packets, on a GPU from sm_80 on. With a norm they must be
    bfloat16: x times its weight, before it is divided by its size, may be too large for float16.

    Parameters
    ----------
    x, weight : array
    norm_weight : array, optional
    **others
        What makes no difference.

    Returns
    -------
    bool
    """
    formats = ("bfloat16",) if norm_weight is not None else ("bfloat16", "float16")
    fits = storage_dtype(x) in formats and _in_packets(x, weight, norm_weight)
    return fits and has_capability(x, TENSOR_CORES)


def rows_compiled(M: int) -> int:
    """Return for how many rows of x a kernel is made that takes M: the next power of two.

    Each number would be a compilation of its own, while a batch empties row by row.
    """
    return 1 << (M - 1).bit_length()


def args_of(
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    norm_weight: Any = None,
    eps: float = 0.0,
) -> tuple[Any, ...]:
    """Order the operands as the kernels take them; what is missing is an array without elements."""
    bias = empty((0,), x.dtype, like=x) if bias is None else bias
    residual = empty((0, 0), out.dtype, like=x) if residual is None else residual
    norm_weight = empty((0,), x.dtype, like=x) if norm_weight is None else norm_weight
    number = ACTIVATIONS[None if activation == "silu_mul" else activation]
    return x, weight, bias, residual, norm_weight, np.float32(eps), number, out


def _most_rows(M: int) -> int:
    return min(_MOST_ROWS, _MOST_SUMS // rows_compiled(M))


def _plan_rows(factory: Any, operands: dict[str, Any]) -> tuple[Launch, ...]:
    """Plan a kernel whose warps have a row of weights each."""
    M, N = operands["out"].shape
    kernel = factory(rows_compiled(M), *_variant(**operands))
    return (Launch(kernel, (math.ceil(N / WARPS),), (WARP, WARPS), args_of(**operands)),)


def _variant(activation: str | None = None, norm_weight: Any = None, **others: Any) -> tuple:
    """Tell whether there is a gate, and whether there is a norm."""
    return activation == "silu_mul", norm_weight is not None


def _in_packets(x: Any, weight: Any, norm_weight: Any = None, **others: Any) -> bool:
    """Tell whether all rows begin where loads of 16 bytes may."""
    loaded = [x, weight] if norm_weight is None else [x, weight, norm_weight]
    fits = x.shape[1] % ptx.VECTOR[storage_dtype(x)] == 0
    return fits and all(map(ptx.is_aligned16, loaded))
