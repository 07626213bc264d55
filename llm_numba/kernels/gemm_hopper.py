r"""A matrix product on Hopper's tensor cores, as a ladder of eight steps.

.. math:: C = A B^T

A is [M, K], B is [N, K] as checkpoints store weights, C is [M, N]: float16 or bfloat16, products
summed in float32. 2 M N K FLOPs; the fewest bytes are A, B and C once each. An H100's tensor cores
make 989 TFLOP/s by the data sheet, and only by ``wgmma``, the instruction of four warps;
``mma.sync``, of which :mod:`llm_numba.kernels.gemm_tensorcore` is made, leaves part of them idle.

A slab of 64 numbers along K of a tile of 128 x 256 keeps the tensor cores busy for 1,024 cycles.
The steps take away, one after the other, what else has to happen in that time:

===========  =========================================================  =============
step         what is new                                                predicted
===========  =========================================================  =============
warpgroups   ``wgmma`` out of swizzled tiles, copied by ``cp.async``    545 TFLOP/s
copy_engine  one thread names boxes, the copy engine (TMA) brings them  1.15 times
specialised  a warpgroup that brings, two that multiply, no meeting     1.15 times
larger       tiles of 128 x 256: fewer bytes for a product              1.1 times
persistent   a block for each SM; tiles that share rows side by side    1.1 times
stored       C through shared memory, by the copy engine: whole         1.02 times
             sectors, and nobody waits for memory
clusters     two blocks bring the rows of B that both need once         1.05 times
overlapped   sums wait in half the registers, and are stored while      1.04 times
             the next tile is multiplied; tiles by the shape
===========  =========================================================  =============

Any M and N: zeros are read outside A and B, and nothing is written outside C. Rows of A and B must
be multiples of 16 bytes, so K is a multiple of 8.

Sources: NVIDIA, "PTX ISA"; "CUTLASS 3"; P. Arora, "Outperforming cuBLAS on H100", 2024.
"""

import math
from collections.abc import Callable
from typing import Any

from llm_numba.errors import DeviceError, KernelArgumentError
from llm_numba.kernels import checks, gemm_tensorcore
from llm_numba.kernels.gemm_hopper_clusters import clusters
from llm_numba.kernels.gemm_hopper_overlapped import OVERLAPPED
from llm_numba.kernels.gemm_hopper_pieces import GROUP_ROWS, GROUP_THREADS, Tile
from llm_numba.kernels.gemm_hopper_plans import COLUMN_TIME, LARGE, plan_clusters
from llm_numba.kernels.gemm_hopper_plans import plan as plan_overlapped
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE, staging_bytes
from llm_numba.kernels.gemm_hopper_warpgroups import copy_engine, warpgroups
from llm_numba.kernels.gemm_plans import plan_register_tile, present
from llm_numba.kernels.gemm_register_tile import gemm_register_tile
from llm_numba.kernels.ladder import Ladder, Step
from llm_numba.runtime import Launch, empty, is_architecture, launch_all, storage_dtype, tensor_map
from llm_numba.runtime.room import room_of
from llm_numba.runtime.tensor_maps import address_of, why_no_map

HOPPER = (9, 0, "a")
DTYPES = ("float16", "bfloat16")
SMALL = Tile(128, 128, 4)
TOGETHER = 16  # rows of tiles that are gone through together
_EXAMPLE = (128, 128, 128)

Plan = Callable[..., tuple[Launch, ...]]

# -- Steps ----------------------------------------------------------------------------------------


def tiles_of(tile: Tile, out: Any) -> int:
    """Return how many tiles C is made of, those over its edges included."""
    return math.ceil(out.shape[0] / tile.rows) * math.ceil(out.shape[1] / tile.columns)


def is_paired(array: Any) -> bool:
    """Tell whether a number in an even column and the next can always be reached together.

    Parameters
    ----------
    array : array [..., N]
    """
    return array.shape[-1] % 2 == 0 and address_of(array) % (2 * array.itemsize) == 0


def _plan_warpgroups(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    kernel = warpgroups(storage_dtype(x), SMALL)
    args = (x, weight, out, TOGETHER, is_paired(out), *present(None, None, x, out))
    threads = GROUP_THREADS * SMALL.groups
    return (Launch(kernel, (tiles_of(SMALL, out),), (threads,), args, SMALL.shared_bytes),)


def _maps(tile: Tile, x: Any, weight: Any) -> tuple[Any, Any]:
    return tensor_map(x, tile.rows), tensor_map(weight, tile.columns)


def _plan_copy_engine(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    kernel, threads = copy_engine(storage_dtype(x), SMALL), GROUP_THREADS * SMALL.groups
    maps, nothing = _maps(SMALL, x, weight), present(None, None, x, out)
    args = (*maps, x.shape[1], out, TOGETHER, is_paired(out), *nothing)
    return (Launch(kernel, (tiles_of(SMALL, out),), (threads,), args, SMALL.shared_bytes),)


def _plan_specialised(tile: Tile, *, fills: bool = False) -> Plan:
    """Make the plan of the kernel whose warpgroups have different trades.

    Parameters
    ----------
    tile : Tile
    fills : bool
        Whether as many blocks run as there are SMs, and no more; else one for each tile.
    """

    def plan(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
        kernel, blocks = specialised(storage_dtype(x), tile), tiles_of(tile, out)
        if fills:
            blocks = min(blocks, room_of(out).multiprocessors)
        maps, nothing = _maps(tile, x, weight), present(None, None, x, out)
        args = (*maps, x.shape[1], out, TOGETHER, is_paired(out), *nothing)
        threads = GROUP_THREADS * (1 + tile.groups)
        return (Launch(kernel, (blocks,), (threads,), args, tile.shared_bytes),)

    return plan


_PLAN_PERSISTENT = _plan_specialised(LARGE, fills=True)


def _plan_stored(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    (launch,) = _PLAN_PERSISTENT(x, weight, out)
    kernel = specialised(storage_dtype(x), LARGE, BY_ENGINE)
    *before, _, bias, beside = launch.args
    args = (*before, tensor_map(out, GROUP_ROWS), bias, beside)
    shared_bytes = LARGE.shared_bytes + staging_bytes(LARGE)
    return (launch._replace(kernel=kernel, args=args, shared_bytes=shared_bytes),)


def _or_persistent(plan: Plan) -> Plan:
    """Make a plan that leaves rows of C that the copy engine cannot address to `persistent`."""

    def either(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
        return (_PLAN_PERSISTENT if why_no_map(out) else plan)(x, weight, out)

    return either


def _plan_clusters(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
    return plan_clusters(x, weight, out, LARGE, BY_ENGINE)


def why_not(x: Any, weight: Any) -> str | None:
    """Say why two matrices cannot be multiplied here; None if they can.

    Parameters
    ----------
    x, weight : array
    """
    for name, matrix in (("x", x), ("weight", weight)):
        if (dtype := storage_dtype(matrix)) not in DTYPES:
            return f"{name!r} is {dtype}, not float16 or bfloat16"
        if problem := why_no_map(matrix):
            return f"the copy engine cannot address {name!r}: {problem}"
    return None


def require_hopper(x: Any) -> None:
    """Raise DeviceError unless an array lies on a GPU that has these instructions.

    Parameters
    ----------
    x : array
    """
    if not is_architecture(x, HOPPER[:2]):
        raise DeviceError(
            "The kernels of gemm_hopper are for GPUs of compute capability 9.0, which this is not.",
            "Use gemm_tensorcore, for GPUs from 8.0 on.",
        )


def require_addressable(x: Any, weight: Any) -> None:
    """Raise KernelArgumentError where :func:`why_not` has a reason.

    Parameters
    ----------
    x, weight : array
    """
    if problem := why_not(x, weight):
        raise KernelArgumentError(
            f"The product cannot be computed by copy engine and warpgroups: {problem}.",
            "Use gemm_tensorcore, or copy the operand to a fresh array with K a multiple of 8.",
        )


def _or_register_tile(plan: Plan) -> Plan:
    """Make a plan that falls back to ordinary units where :func:`why_not` has a reason."""

    def either(x: Any, weight: Any, out: Any) -> tuple[Launch, ...]:
        return (plan_register_tile if why_not(x, weight) else plan)(x=x, weight=weight, out=out)

    return either


def _step(name: str, idea: str, plan: Plan, factory: Any, tile: Tile) -> Step:
    kernels = (*(factory(dtype, tile) for dtype in DTYPES), gemm_register_tile)
    return Step(name, idea, _or_register_tile(plan), kernels, HOPPER)


def _stored_step(name: str, idea: str, plan: Plan, kernels_of: Any) -> Step:
    """Make a step whose C the copy engine stores; of other rows, `persistent` is left."""
    own = [kernel for dtype in DTYPES for kernel in kernels_of(dtype)]
    kernels = (*own, *(specialised(dtype, LARGE) for dtype in DTYPES), gemm_register_tile)
    return Step(name, idea, _or_register_tile(_or_persistent(plan)), kernels, HOPPER)


LADDER = Ladder(
    name="gemm_hopper",
    steps=(
        _step(
            "warpgroups",
            "Four warps multiply 64 rows at once, and read both operands out of shared memory.",
            _plan_warpgroups,
            warpgroups,
            SMALL,
        ),
        _step(
            "copy_engine",
            "One thread names a box, and the copy engine brings it: no addresses, no packets.",
            _plan_copy_engine,
            copy_engine,
            SMALL,
        ),
        _step(
            "specialised",
            "One warpgroup brings, two multiply; they tell each other by barriers that count.",
            _plan_specialised(SMALL),
            specialised,
            SMALL,
        ),
        _step(
            "larger",
            "128 x 256 outputs a block, in registers that the producer gave back.",
            _plan_specialised(LARGE),
            specialised,
            LARGE,
        ),
        _step(
            "persistent",
            "A block for each SM takes tile after tile: the next comes while one is stored.",
            _PLAN_PERSISTENT,
            specialised,
            LARGE,
        ),
        _stored_step(
            "stored",
            "Sums go through shared memory, and the copy engine stores them: whole sectors of C.",
            _plan_stored,
            lambda dtype: (specialised(dtype, LARGE, BY_ENGINE),),
        ),
        _stored_step(
            "clusters",
            "Two blocks whose tiles need the same rows of B bring half of them each, for both.",
            _plan_clusters,
            lambda dtype: (clusters(dtype, LARGE, BY_ENGINE),),
        ),
        _stored_step(
            "overlapped",
            "Sums wait, rounded, in half the registers, and are stored during the next tile.",
            plan_overlapped,
            lambda dtype: tuple(clusters(dtype, tile, OVERLAPPED) for tile in COLUMN_TIME),
        ),
    ),
    operands=gemm_tensorcore.LADDER.operands,
    expect=gemm_tensorcore.LADDER.expect,
    dtypes=DTYPES,
    example=_EXAMPLE,
    axes="M N K",
    ceiling="compute",
    fewest_bytes=gemm_tensorcore.LADDER.fewest_bytes,
    flops=gemm_tensorcore.LADDER.flops,
)


def gemm_hopper(
    x: Any, weight: Any, *, out: Any = None, step: str = "stored", stream: Any = None
) -> Any:
    """Multiply by the transpose of a weight matrix on the tensor cores of an H100 or H200.

    Parameters
    ----------
    x : float16 or bfloat16 [M, K]
        Contiguous, on a device, at a multiple of 16 bytes; K is a multiple of 8.
    weight : [N, K]
        Like `x`.
    out : [M, N], optional
        Where the result goes, of the dtype of `x`.
    step : str
        A step of :data:`LADDER`.
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    [M, N]
        `out`, or a new array.

    Raises
    ------
    DeviceError
        If the GPU is of another compute capability than 9.0.
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, there is no such step, or
        the copy engine cannot address an operand.
    """
    checks.array("x", x, ndim=2, dtype=DTYPES)
    same = {"dtype": storage_dtype(x), "like": x}
    checks.array("weight", weight, shape=(None, x.shape[1]), **same)
    shape = len(x), len(weight)
    if out is None:
        out = empty(shape, x.dtype, like=x)
    checks.array("out", out, shape=shape, **same)
    checks.choice("step", step, (each.name for each in LADDER.steps))
    require_hopper(x)
    if not out.size:
        return out
    if not x.shape[1]:
        out[...] = 0  # the sum of no products
        return out
    require_addressable(x, weight)
    launch_all(LADDER.step(step).plan(x=x, weight=weight, out=out), stream)
    return out
