"""From operands to launches: which kernels a matrix product takes, over which grid."""

import math
from collections.abc import Callable
from typing import Any

from llm_numba.kernels import gemm_pipelined, gemm_transposed, ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm_config import Config, unsplit
from llm_numba.kernels.gemm_register_tile import BLOCK_TILE, THREADS, gemm_register_tile
from llm_numba.kernels.gemm_split_k import add_parts
from llm_numba.kernels.gemm_warp_tile import warp_tile
from llm_numba.runtime import Launch, empty, storage_dtype

Plan = Callable[..., tuple[Launch, ...]]

# Offsets within a block's rows are 32 bits wide.
REACH = 2**31


def plan_of(
    kernel: Any, grid: Callable[[int, int], tuple[int, ...]], block: Any, shared_bytes: int = 0
) -> Plan:
    """Make the plan of a kernel that knows no gates: they follow in a launch of their own.

    Parameters
    ----------
    kernel : dispatcher
        Takes a, w, bias, residual, activation and c.
    grid : callable
        ``grid(M, N)``
    block : tuple of int
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    def plan(
        x: Any,
        weight: Any,
        out: Any,
        bias: Any = None,
        activation: str | None = None,
        residual: Any = None,
    ) -> tuple[Launch, ...]:
        bias, residual = present(bias, residual, x, out)
        if activation == "silu_mul":
            parts = empty((1, len(x), len(weight)), "float32", like=x)
            args = (x, weight, *present(None, None, x, parts), 0, parts[0])
            product = Launch(kernel, grid(len(x), len(weight)), block, args, shared_bytes)
            return product, add_parts(parts, bias, residual, out)
        args = (x, weight, bias, residual, ACTIVATIONS[activation], out)
        return (Launch(kernel, grid(*out.shape), block, args, shared_bytes),)

    return plan


plan_register_tile = plan_of(
    gemm_register_tile,
    lambda M, N: (math.ceil(M / BLOCK_TILE), math.ceil(N / BLOCK_TILE)),
    (THREADS, THREADS),
)


def in_packets(x: Any, weight: Any) -> bool:
    """Tell whether rows begin at multiples of 16 bytes, and the tiles' offsets fit in 32 bits.

    Parameters
    ----------
    x, weight : array
    """
    aligned = ptx.is_aligned16(x) and ptx.is_aligned16(weight)
    whole = x.shape[1] % ptx.VECTOR[storage_dtype(x)] == 0
    return aligned and whole and max(x.size, weight.size) < REACH


def or_register_tile(plan: Plan) -> Plan:
    """Make a plan that falls back to ``register_tile`` where there are no whole packets.

    Parameters
    ----------
    plan : callable
    """

    def either(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
        chosen = plan if in_packets(x, weight) else plan_register_tile
        return chosen(x=x, weight=weight, out=out, **options)

    return either


def plan_square(factory: Callable[[str, int], Any]) -> Plan:
    """Make the plan of a kernel whose blocks are squares of threads.

    Parameters
    ----------
    factory : callable
        ``factory(storage, side)``
    """

    def plan(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
        least = min(len(x), len(weight))
        side = 16 if least > 64 else 8 if least > 8 else 4
        tile = side * side // 2
        kernel = factory(storage_dtype(x), side)
        of_square = plan_of(
            kernel, lambda M, N: (math.ceil(M / tile), math.ceil(N / tile)), (side, side)
        )
        return of_square(x, weight, out, **options)

    return plan


def for_warp_tile(M: int, N: int, dtype: str) -> Config:
    """Choose the cut of the step ``warp_tile``: its slabs are longer than those of later steps.

    Parameters
    ----------
    M, N : int
    dtype : str
    """
    return unsplit(M, N, dtype)._replace(packets=4)


def plan_warp_tile(x: Any, weight: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    """Plan a product by the kernel of warp tiles; its operands are the ladder's."""
    storage = storage_dtype(x)
    config = for_warp_tile(len(x), len(weight), storage)
    kernel = warp_tile(storage, config)
    of_tiles = plan_of(
        kernel,
        lambda M, N: (math.ceil(M / config.rows), math.ceil(N / config.columns)),
        (config.threads,),
    )
    return of_tiles(x, weight, out, **options)


def kernel_of(storage: str, config: Config, gated: bool = False, transposed: bool = True) -> Any:
    """Return the kernel of a cut, the same for all numbers of splits.

    Parameters
    ----------
    storage : str
    config : Config
    gated : bool
    transposed : bool
        Whether it may be the one with transposed tiles, where that can be made.
    """
    config = config._replace(splits=1)
    if transposed and gemm_transposed.fits(config, storage):
        return gemm_transposed.transposed(storage, config, gated)
    return gemm_pipelined.pipelined(storage, config, gated)


def shared_bytes(storage: str, config: Config, transposed: bool = True) -> int:
    """Return the dynamic shared memory of a block of that kernel.

    Parameters
    ----------
    storage : str
    config : Config
    transposed : bool
    """
    if transposed and gemm_transposed.fits(config, storage):
        return gemm_transposed.shared_bytes(config)
    return gemm_pipelined.shared_bytes(config, storage)


def plan_pipelined(
    config: Config,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
    transposed: bool = True,
) -> tuple[Launch, ...]:
    """Plan a product by a pipelined kernel, and the sum of its parts if there are several.

    Parameters
    ----------
    config : Config
    x, weight, out, bias, activation, residual
        The ladder's operands.
    transposed : bool
        As of :func:`kernel_of`.
    """
    storage, (M, K), N = storage_dtype(x), x.shape, len(weight)
    gated, splits = activation == "silu_mul", config.splits
    span = math.ceil(math.ceil(K / config.slab(storage)) / splits) * config.slab(storage)
    kernel = kernel_of(storage, config, gated and splits == 1, transposed)
    columns = config.columns // 2 if gated and splits == 1 else config.columns
    width = out.shape[1] if splits == 1 else N
    grid = math.ceil(M / config.rows), math.ceil(width / columns), splits
    shared = shared_bytes(storage, config, transposed)
    launch = Launch(kernel, grid, (config.threads,), (), shared)
    return with_operands(launch, (span,), splits, x, weight, out, bias, residual, activation)


def with_operands(
    launch: Launch,
    numbers: tuple[int, ...],
    parts: int,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any,
    residual: Any,
    activation: str | None,
) -> tuple[Launch, ...]:
    """Give a product's launch its arguments; where it leaves parts of sums, plan what adds them.

    Parameters
    ----------
    launch : Launch
        Without arguments, of a kernel that takes a, w, bias, residual, activation, some numbers,
        and c [parts, M, N].
    numbers : tuple of int
    parts : int
        1 where the kernel itself finishes the result.
    x, weight, out, bias, residual, activation
        The ladder's operands.
    """
    bias, residual = present(bias, residual, x, out)
    number = 0 if activation == "silu_mul" else ACTIVATIONS[activation]
    if parts == 1:
        whole = out.reshape(1, *out.shape)
        return (launch._replace(args=(x, weight, bias, residual, number, *numbers, whole)),)
    sums = empty((parts, len(x), len(weight)), "float32", like=x)
    args = (x, weight, *present(None, None, x, sums), 0, *numbers, sums)
    return launch._replace(args=args), add_parts(sums, bias, residual, out, number)


def present(bias: Any, residual: Any, x: Any, out: Any) -> tuple[Any, Any]:
    """Put arrays without elements in the place of what is missing.

    Parameters
    ----------
    bias, residual : array or None
    x, out : array
        Of the dtypes that they would have.
    """
    bias = empty((0,), x.dtype, like=x) if bias is None else bias
    return bias, empty((0, 0), out.dtype, like=x) if residual is None else residual
