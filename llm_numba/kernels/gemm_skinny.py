r"""The linear layer for few rows on tensor cores, as a ladder: weights at the speed of memory.

.. math:: C = \mathrm{act}(A W^T + b) + R

A is [M, K] with M up to 128, W is [N, K] as checkpoints store it, C is [M, N]: float16 or bfloat16,
all products summed in float32. 2 M N K FLOPs; the fewest bytes are A, W and C (and R) once each.
A product so flat is called skinny.

An H100's tensor cores make 330 FLOPs for each byte of its memory, and ``mma.sync`` some 200. A
weight is two bytes, and M rows make 2 M FLOPs of it. So up to 200 rows memory is the ceiling, as
for :mod:`~llm_numba.kernels.gemv`; and ordinary units, or fragments that come to each warp straight
from memory, do not keep up from some ten rows on. So it takes the tensor cores and the stages of
:mod:`~llm_numba.kernels.gemm_tensorcore`, and the question of the other one: are there bytes under
way, at all times, on all SMs?

==============  ==============================================================  ==================
step            what is new                                                     predicted, of copy
==============  ==============================================================  ==================
``swapped``     weights are the 16 rows of an instruction; a slab under way     0.2
``deep``        as many slabs under way as shared memory holds                  0.5
``split``       parts of K for all SMs; a second kernel adds them               0.7
``clustered``   parts are added in shared memory of a cluster: one launch       0.85
``streamed``    on Hopper: the copy engine brings, warpgroups multiply          0.9
``multicast``   blocks have all of K of their columns, and share x              0.75
==============  ==============================================================  ==================

The predictions are for M = 64 and N = K = 4096, of a copy's bandwidth, and were written down before
anything was measured, for 32 tiles of 128 rows of weights. One slab of each is 0.5 MB under way;
memory answers in 0.8 µs or so: 0.65 TB/s of 3. Three slabs are three times as much, but 32 SMs
cannot take in what memory gives. Parts for all of them can, and then a second launch is a sixth of
the time. Those of the last two were written when the steps before them had been measured, and tiles
are of 64 rows of weights since. The last one's is the first that counts the launch and the first
slab's way.

What cannot be multiplied so, and more rows, go to :mod:`~llm_numba.kernels.gemm_tensorcore`.

Sources: as there; Little, "A Proof for the Queuing Formula: L = λW", 1961.
"""

import math
from typing import Any

from llm_numba.kernels import checks, gemm, gemm_tensorcore
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm_hopper import HOPPER, why_not
from llm_numba.kernels.gemm_plans import Plan, present, with_operands
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.kernels.gemm_skinny_hopper import Stream, streamed
from llm_numba.kernels.gemm_skinny_kernel import joined_bytes, skinny
from llm_numba.kernels.gemm_skinny_multicast import Slice, multicast, plan_slice, slice_for
from llm_numba.kernels.gemm_split_k import gemm_add_parts
from llm_numba.kernels.gemm_tensorcore_plans import DTYPES, TENSOR_CORES, obstacle
from llm_numba.kernels.gemm_tensorcore_tiles import Tile
from llm_numba.kernels.ladder import Ladder, Step
from llm_numba.kernels.packets import rounded_up
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import (
    Launch,
    is_architecture,
    launch_all,
    stands_for,
    storage_dtype,
    tensor_map,
)
from llm_numba.runtime.room import room_of
from llm_numba.simulator.clusters import MOST_BLOCKS

MOST_ROWS = 128
# By the rows of x that they are for; their columns are rows of weights. No tile takes more than 99
# KiB, which a block may have on any GPU with tensor cores for bfloat16.
_TILES = {
    16: (Tile(16, 64, 16, 16, 64, 4, 5), Tile(16, 128, 16, 32, 64, 5, 2)),
    32: (Tile(32, 64, 32, 16, 64, 4, 4), Tile(32, 128, 32, 32, 64, 4, 2)),
    64: (Tile(64, 64, 32, 32, 64, 4, 3), Tile(64, 128, 32, 32, 64, 4, 2)),
    MOST_ROWS: (Tile(128, 64, 64, 32, 64, 3, 3), Tile(128, 128, 64, 32, 64, 3, 2)),
}
_SMS = 132  # of an H100
_FILLED = 0.7  # of the room on them, at most: fewer parts than that were faster in trials
_LEAST_SHARE = 256  # numbers of K that are worth a part of their own
_MOST_SPLITS = 4  # that the rule makes
_EXAMPLE = (8, 64, 512)


def rule(shape: tuple[int, int, int], dtype: str) -> Tile:
    """Choose the smallest tile for so many rows whose blocks are all there at once, and its splits.

    Where no SM waits for a block's end, memory serves all blocks alike, and it does not matter that
    some SMs have one more of them than others. A second round would find memory half idle.

    Parameters
    ----------
    shape : tuple of int
        M up to 128, N (rows of the weight) and K.
    dtype : str
        Storage format; both have 16 bits, and the same cuts.

    Returns
    -------
    Tile
    """
    tiles = _tiles(shape[0])
    tile = next((t for t in tiles if t.blocks_for(*shape[:2]) <= _SMS * t.blocks), tiles[-1])
    return [each for each in _with_splits(tile, shape) if each.splits <= _MOST_SPLITS][-1]


def candidates(shape: tuple[int, int, int], dtype: str) -> tuple[Tile, ...]:
    """Return the cuts that are worth a measurement, the rule's among them.

    Parameters
    ----------
    shape : tuple of int
    dtype : str
    """
    return tuple(each for tile in _tiles(shape[0]) for each in _with_splits(tile, shape))


def _tiles(M: int) -> tuple[Tile, ...]:
    return next(tiles for most, tiles in _TILES.items() if most >= min(M, MOST_ROWS))


def _with_splits(tile: Tile, shape: tuple[int, int, int]) -> tuple[Tile, ...]:
    M, N, K = shape
    room = _FILLED * _SMS * tile.blocks / max(1, tile.blocks_for(M, N))
    most = min(room, K // _LEAST_SHARE)
    return tuple(tile._replace(splits=n) for n in (1, 2, 4, MOST_BLOCKS) if n <= max(1, most))


# -- Plans ----------------------------------------------------------------------------------------


def plan_tile(
    tile: Tile,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    clustered: bool = True,
) -> tuple[Launch, ...]:
    """Plan a product by a cut, and the sum of its parts if a cluster does not add them.

    Parameters
    ----------
    tile : Tile
    x, weight, out, bias, activation, residual
        The ladder's operands.
    clustered : bool
        Whether blocks that share a tile may form a cluster, where the device has such.
    """
    storage, (M, K), N, splits = storage_dtype(x), x.shape, len(weight), tile.splits
    blocks = splits if clustered and room_of(x).has_clusters else 1
    gated, parts = activation == "silu_mul", 1 if blocks == splits else splits
    kernel = skinny(storage, tile._replace(splits=1), blocks, gated and parts == 1)
    span = math.ceil(math.ceil(K / tile.slab) / splits) * tile.slab
    # A gate's two columns take the room of one of the result.
    grid = (tile.blocks_for(M, out.shape[1] * 2 if gated else N) * splits,)
    shared = max(tile.shared_bytes(tile.stages), joined_bytes(tile))
    launch = Launch(kernel, grid, (tile.threads,), (), shared)
    numbers = splits, span
    return with_operands(launch, numbers, parts, x, weight, out, bias, residual, activation)


def plan_streamed(
    tile: Tile,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
) -> tuple[Launch, ...]:
    """Plan a product by the kernel for Hopper; where that cannot run, as :func:`plan_tile` does.

    Parameters
    ----------
    tile : Tile
        The same cuts serve both; how a warp's share is cut does not matter here.
    x, weight, out, bias, activation, residual
        The ladder's operands.
    """
    if not is_architecture(x, HOPPER[:2]) or why_not(x, weight):
        return plan_tile(tile, x, weight, out, bias, activation, residual)
    gated, splits, K = activation == "silu_mul", tile.splits, x.shape[1]
    stream = Stream(tile.rows, tile.columns, tile.stages, tile.blocks)
    kernel = streamed(storage_dtype(x), stream, splits, gated)
    # A gate's two columns take the room of one of the result.
    width = tile.columns // 2 if gated else tile.columns
    span = math.ceil(math.ceil(K / tile.slab) / splits) * tile.slab
    maps = tensor_map(x, tile.rows), tensor_map(weight, width)
    number = 0 if gated else ACTIVATIONS[activation]
    args = (*maps, K, *present(bias, residual, x, out), number, span, out)
    grid = (math.ceil(out.shape[1] / width) * splits,)
    return (Launch(kernel, grid, (stream.threads,), args, stream.shared_bytes),)


def _or_other(plan: Plan) -> Plan:
    """Make a plan that leaves to others what it cannot multiply."""

    def either(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
        fits = len(x) <= MOST_ROWS and not obstacle(x, weight, out, options.get("residual"))
        chosen = plan if fits else gemm_tensorcore.LADDER.steps[-1].plan
        return chosen(x=x, weight=weight, out=out, **options)

    return either


def _plan_swapped(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    tile = _tiles(len(x))[0]._replace(stages=2)
    return plan_tile(tile, x, weight, out, **options)


def _plan_deep(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return plan_tile(_tiles(len(x))[0], x, weight, out, **options)


def chosen(x: Any, weight: Any) -> Tile:
    """Return the cut of a product for all steps but the last, tuned or by :func:`rule`.

    Parameters
    ----------
    x : array [M, K]
    weight : array [N, K]
    """
    return choose(TUNABLE, (len(x), *weight.shape), storage_dtype(x), like=x)


def _plan_split(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return plan_tile(chosen(x, weight), x, weight, out, clustered=False, **options)


def _plan_clustered(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return plan_tile(chosen(x, weight), x, weight, out, **options)


def _plan_streamed(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return plan_streamed(chosen(x, weight), x, weight, out, **options)


def _plan_multicast(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    if not is_architecture(x, HOPPER[:2]) or why_not(x, weight):
        return _plan_streamed(x, weight, out, **options)
    gated = options.get("activation") == "silu_mul"
    cut = slice_for((len(x), *weight.shape), gated, room_of(x))
    return plan_slice(cut, x, weight, out, **options)


def _kernels(*blocks: int, stages: int | None = None) -> tuple[Any, ...]:
    """Return the kernels of both formats for few rows, and what runs where there is an obstacle."""
    tile = _tiles(_EXAMPLE[0])[0]
    tile = tile._replace(stages=stages or tile.stages)
    made = (skinny(dtype, tile, each, False) for each in blocks for dtype in DTYPES)
    return (*made, gemm_register_tile)


LADDER = Ladder(
    name="gemm_skinny",
    steps=(
        Step(
            "swapped",
            "Weights are the rows of the instruction, and 8 rows of x its columns: no waste at 8.",
            _or_other(_plan_swapped),
            _kernels(1, stages=2),
            TENSOR_CORES,
        ),
        Step(
            "deep",
            "As many slabs are under way as shared memory holds: memory is always asked for more.",
            _or_other(_plan_deep),
            _kernels(1),
            TENSOR_CORES,
        ),
        Step(
            "split",
            "Blocks share the K of a tile, so that all SMs ask; a second kernel adds the parts.",
            _or_other(_plan_split),
            (*_kernels(1), gemm_add_parts),
            TENSOR_CORES,
        ),
        Step(
            "clustered",
            "Blocks of a cluster hand each other their parts: no second kernel, no detour.",
            _or_other(_plan_clustered),
            _kernels(2, _MOST_SPLITS),
            TENSOR_CORES,
        ),
        Step(
            "streamed",
            "The copy engine brings slabs, and warpgroups multiply them out of shared memory.",
            _or_other(_plan_streamed),
            (
                *(
                    streamed(dtype, Stream(16, 64, 4, 5), blocks, False)
                    for blocks in (2, _MOST_SPLITS)
                    for dtype in DTYPES
                ),
                gemm_register_tile,
            ),
            HOPPER,
        ),
        Step(
            "multicast",
            "Blocks go through all of K and share x: each of two brings half of its rows.",
            _or_other(_plan_multicast),
            (
                *(multicast(dtype, Slice(32, 32, 3, 2), False) for dtype in DTYPES),
                gemm_register_tile,
            ),
            HOPPER,
        ),
    ),
    operands=gemm_tensorcore.LADDER.operands,
    expect=gemm_tensorcore.LADDER.expect,
    dtypes=DTYPES,
    example=_EXAMPLE,
    axes="M N K",
    ceiling="memory",
    fewest_bytes=gemm.LADDER.fewest_bytes,
    flops=gemm.LADDER.flops,
)


def _tuned(tile: Tile, x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    return _or_other(lambda **operands: plan_streamed(tile, **operands))(x, weight, out, **options)


TUNABLE = Tunable(
    ladder=LADDER,
    rule=rule,
    candidates=candidates,
    plan=_tuned,
    shapes=tuple(
        (M, N, K)
        for N, K in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
        for M in (16, 32, 64, 128)
    ),
    # A kernel for 16 rows takes 9 as well.
    bucket=lambda shape: rounded_up((max(shape[0], 16), *shape[1:])),
)


def gemm_skinny(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out: Any = None,
    step: str | None = None,
    stream: Any = None,
) -> Any:
    """Multiply few rows by a weight matrix on tensor cores, with bias, activation and residual.

    More than 128 rows, and what tensor cores cannot multiply, go to
    :func:`llm_numba.kernels.gemm_tensorcore.gemm_tensorcore`.

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
    step : str, optional
        A step of :data:`LADDER`; by default the last that is for the GPU.
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
    if step is None:
        step = "multicast" if stands_for(x, HOPPER[:2]) else "clustered"
    checks.choice("step", step, (each.name for each in LADDER.steps))
    options = {"bias": bias, "activation": activation, "residual": residual}
    launch_all(LADDER.step(step).plan(x=x, weight=weight, out=out, **options), stream)
    return out
