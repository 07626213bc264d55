"""The matrix product for few rows, as a ladder."""

import functools
import math
from typing import Any

import numpy as np
from numba import cuda, float32

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemv_epilogue import inverse_rms, store_output
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.reduce import WARP, warp_sum
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

MAX_ROWS = 8
WARPS = 8
_NAIVE_THREADS = 128


@functools.cache
def naive(gated: bool, normed: bool) -> Any:
    """Make the kernel of the first step, with or without gate and norm."""

    @cuda.jit
    def gemv_naive(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Give each thread a row of weights: lane after lane goes down a column of W.

        What one would write for a CPU. For each k the 32 lanes read 32 rows: 32 sectors of 32
        bytes, of which 4 (or 2) bytes each are used. The sectors may still be in a cache when
        their other bytes are asked for, if 32 rows at a time are all that has to fit.
        """
        column, row = cuda.grid(1), cuda.blockIdx.y
        if column >= out.shape[1]:
            return
        total, upper, square = float32(0), float32(0), float32(0)
        for k in range(x.shape[1]):
            value = ptx.to_float(x[row, k])
            if normed:
                square += value * value
                value *= ptx.to_float(norm_weight[k])
            total += ptx.to_float(weight[column, k]) * value
            if gated:
                upper += ptx.to_float(weight[column + out.shape[1], k]) * value
        if normed:
            factor = inverse_rms(square, x.shape[1], eps)
            total *= factor
            upper *= factor
        store_output((total, upper), gated, row, column, bias, residual, activation, out)

    return gemv_naive


@functools.cache
def warp(M: int, gated: bool, normed: bool) -> Any:
    """Make the kernel of the second step for M rows, with or without gate and norm."""

    @cuda.jit
    def gemv_warp(x, weight, bias, residual, norm_weight, eps, activation, out):
        """Give each warp a row of weights, lanes along K: all bytes of a sector are used.

        A weight is loaded once for all rows of x. How many they are is known when the kernel is
        compiled, so that their sums are registers.
        """
        column = cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if column >= out.shape[1]:  # for all lanes alike: no shuffle misses one
            return
        total = cuda.local.array(M, float32)
        upper = cuda.local.array(M, float32)
        square = cuda.local.array(M, float32)
        for m in range(M):
            total[m] = upper[m] = square[m] = float32(0)
        for k in range(cuda.threadIdx.x, x.shape[1], WARP):
            of_row = ptx.to_float(weight[column, k])
            of_up = ptx.to_float(weight[column + out.shape[1], k]) if gated else float32(0)
            for m in range(M):
                value = ptx.to_float(x[m, k])
                if normed:
                    square[m] += value * value
                    value *= ptx.to_float(norm_weight[k])
                total[m] += of_row * value
                if gated:
                    upper[m] += of_up * value
        for m in range(M):
            factor = float32(1)
            if normed:
                factor = inverse_rms(warp_sum(square[m]), x.shape[1], eps)
            of_row = warp_sum(total[m]) * factor
            of_up = warp_sum(upper[m]) * factor if gated else float32(0)
            if cuda.threadIdx.x == m:
                sums = of_row, of_up
                store_output(sums, gated, m, column, bias, residual, activation, out)

    return gemv_warp


# -- Steps ----------------------------------------------------------------------------------------


def _args(
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


def _plan_naive(x: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    M, N = out.shape
    grid = (math.ceil(N / _NAIVE_THREADS), M)
    return (
        Launch(
            naive(*_variant(**options)), grid, (_NAIVE_THREADS,), _args(x=x, out=out, **options)
        ),
    )


def _plan_warp(x: Any, out: Any, **options: Any) -> tuple[Launch, ...]:
    M, N = out.shape
    grid = (math.ceil(N / WARPS),)
    return (
        Launch(warp(M, *_variant(**options)), grid, (WARP, WARPS), _args(x=x, out=out, **options)),
    )


def _variant(activation: str | None = None, norm_weight: Any = None, **others: Any) -> tuple:
    """Tell whether there is a gate, and whether there is a norm."""
    return activation == "silu_mul", norm_weight is not None


def gemv(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out_dtype: Any = None,
    norm_weight: Any = None,
    eps: float = 0.0,
    out: Any = None,
    step: str = "warp",
    stream: Any = None,
) -> Any:
    """Multiply few rows by a weight matrix, with a norm before and an epilogue after it.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, K]
        M up to 8. Contiguous, on a device.
    weight : [N, K]
        Like all other operands of the dtype of `x` and on its device.
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
        With ``"silu_mul"`` N is 2F, the rows of the gate before those of up, and the result is
        [M, F].
    residual : [M, N] or [M, F], optional
        Added after the activation; of the dtype of the result.
    out_dtype : {None, "float32"}
        Of the result: by default that of `x`.
    norm_weight : [K], optional
        Where given, rows of x are RMS-normalised first, and not rounded in between.
    eps : float
        Of that norm.
    out : [M, N] or [M, F], optional
        Where the result goes; `residual` itself is allowed, other operands are not.
    step : str
        Of :data:`LADDER`.
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    [M, N] or [M, F]
        `out`, or a new array.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, or there is no such step.
    """
    checks.array("x", x, ndim=2)
    same = {"dtype": storage_dtype(x), "like": x}
    M, K = x.shape
    if M > MAX_ROWS:
        raise KernelArgumentError(
            f"Argument 'x' has shape ({M}, {K}).", f"It must have at most {MAX_ROWS} rows."
        )
    checks.array("weight", weight, shape=(None, K), **same)
    N = weight.shape[0]
    if bias is not None:
        checks.array("bias", bias, shape=(N,), **same)
    if activation is not None:
        checks.choice("activation", activation, [*filter(None, ACTIVATIONS), "silu_mul"])
    if activation == "silu_mul":
        if N % 2:
            raise KernelArgumentError(
                f"Argument 'weight' has {N} rows.",
                "With silu_mul it must have an even number: half of them are the gate's.",
            )
        N //= 2
    if norm_weight is not None:
        checks.array("norm_weight", norm_weight, shape=(K,), **same)
    eps = checks.number("eps", eps, finite=True, at_least=0)
    formats = check_output_dtype(x, out_dtype)
    if out is None:
        out = empty((M, N), out_dtype or x.dtype, like=x)
    checks.array("out", out, shape=(M, N), dtype=formats, like=x)
    if residual is not None:
        checks.array("residual", residual, shape=(M, N), dtype=storage_dtype(out), like=x)
    checks.choice("step", step, (each.name for each in LADDER.steps))
    if out.size > 0:
        plan = LADDER.step(step).plan
        launches = plan(
            x=x, weight=weight, out=out, bias=bias, activation=activation, residual=residual,
            norm_weight=norm_weight, eps=eps,
        )  # fmt: skip
        launch_all(launches, stream)
    return out


def check_output_dtype(x: Any, out_dtype: Any) -> tuple[str, ...]:
    """Check what a result is asked for in, and return the formats that it may have.

    Parameters
    ----------
    x : array
    out_dtype : {None, "float32"} or the dtype of `x`

    Returns
    -------
    tuple of str

    Raises
    ------
    KernelArgumentError
        If it is another.
    """
    formats = tuple(dict.fromkeys((storage_dtype(x), "float32")))
    if out_dtype is None:
        return formats
    asked = np.dtype(out_dtype).name
    if asked not in formats:
        raise KernelArgumentError(
            f"Argument 'out_dtype' is {asked}.", f"It must be {' or '.join(formats)}."
        )
    return (asked,)


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
    name="gemv",
    steps=(
        Step(
            "naive",
            "A thread a row: simple, and a sector of memory for each number of W.",
            _plan_naive,
            (naive(False, False),),
        ),
        Step(
            "warp",
            "A warp a row, lanes along K: all bytes of each sector are used.",
            _plan_warp,
            (warp(1, False, False), warp(2, False, False)),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(1, 64, 512),
    axes="M N K",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: (
        (shape[0] * shape[2] + shape[1] * shape[2] + shape[0] * shape[1]) * itemsize
    ),
    flops=lambda shape: 2 * math.prod(shape),
)
