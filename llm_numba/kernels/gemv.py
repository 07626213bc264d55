r"""The linear layer for few rows, as a ladder: a vector or a few, times all weights.

.. math:: C = \mathrm{act}(\mathrm{norm}(A) W^T + b) + R

A is [M, K] with M up to 8, in the last step up to 32. W is [N, K] as checkpoints store it: float32,
float16 or bfloat16, products summed in float32. 2 M N K FLOPs, and N K weights to be read once:
memory is the ceiling by far. So nothing counts but that W comes in as fast as the memory gives it:

==============  ==================  =============  ==========================================
step            sectors a request   reads of x     under way in a lane, before it multiplies
==============  ==================  =============  ==========================================
``naive``       32                  1 a row of W   what the compiler sees fit
``warp``        4; 2 of halves      1 a row of W   what the compiler sees fit
``vectorised``  16                  1 a row of W   1 packet of 16 bytes
``in_flight``   16                  1 for 4 rows   2 packets of each of 4 rows
``split``       16                  1 for 4 rows   the same; and up to 4 warps share the rows
``tensor``      16                  1 for 16 rows  4 packets of each of 2 rows; tensor cores
==============  ==================  =============  ==========================================

::

    W [N, K]      naive               warp                 split
    row n         t0 -> -> -> ->      w0: t0 t1 .. t31     w0 w1 w2 w3 | w0 w1 w2 w3 |
    row n + 1     t1 -> -> -> ->      w1: t0 t1 .. t31     w0 w1 w2 w3 | w0 w1 w2 w3 |
    row n + 2     t2 -> -> -> ->      w2: t0 t1 .. t31     w0 w1 w2 w3 | w0 w1 w2 w3 |
    row n + 3     t3 -> -> -> ->      w3: t0 t1 .. t31     w0 w1 w2 w3 | w0 w1 w2 w3 |

x lies in a cache, and is read there once for each row of W, or for several at a time. Norm and
what follows the product cost next to nothing: :mod:`~llm_numba.kernels.gemv_epilogue`. The fast
steps are in :mod:`~llm_numba.kernels.gemv_packets` and :mod:`~llm_numba.kernels.gemv_tensor`; the
last one is for halves.

References
----------
Little, "A Proof for the Queuing Formula: L = λW", 1961; Volkov, "Better Performance at Lower
Occupancy", 2010 (the work of a thread, and not the number of threads, keeps a memory busy).
"""

import math
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemv_packets import Config, split_kernel, vectorised_kernel
from llm_numba.kernels.gemv_plans import (
    TENSOR_CORES,
    TILES,
    candidates,
    fits_tensor_cores,
    plan_config,
    plan_in_flight,
    plan_naive,
    plan_tile,
    plan_vectorised,
    plan_warp,
    rows_compiled,
    rule,
    tile_for,
    warps_of_row,
    warps_of_tile,
)
from llm_numba.kernels.gemv_scalar import naive_kernel, warp_kernel
from llm_numba.kernels.gemv_tensor import tensor_kernel
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.tuning import Tunable, choose
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype

MAX_ROWS = 8
_MAX_TENSOR_ROWS = 32


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
    step: str = "tensor",
    stream: Any = None,
) -> Any:
    """Multiply few rows by a weight matrix, with a norm before and an epilogue after it.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, K]
        M up to :func:`most_rows`. Contiguous, on a device.
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
        `out`, or a new array. Of up to 8 rows, the bits of each do not depend on the others.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, or there is no such step.
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
                f"Argument 'weight' has {N} rows.",
                "With silu_mul it must have an even number: half of them are the gate's.",
            )
        N //= 2
    if norm_weight is not None:
        checks.array("norm_weight", norm_weight, shape=(K,), **same)
    most = most_rows(x, weight, norm_weight) if step == LADDER.steps[-1].name else MAX_ROWS
    if most < M:
        raise KernelArgumentError(
            f"Argument 'x' has shape ({M}, {K}).", f"It must have at most {most} rows."
        )
    if K == 0:
        norm_weight = None  # the norm of no numbers is none
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


def most_rows(x: Any, weight: Any, norm_weight: Any = None) -> int:
    """Tell how many rows x may have.

    Parameters
    ----------
    x, weight : array
    norm_weight : array, optional
        As of :func:`gemv`.

    Returns
    -------
    int
        8; and 32 where tensor cores can multiply.
    """
    return _MAX_TENSOR_ROWS if fits_tensor_cores(x, weight, norm_weight) else MAX_ROWS


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
    try:
        asked = np.dtype(out_dtype).name
    except TypeError:
        asked = repr(out_dtype)
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


def _plan_chosen(**operands: Any) -> tuple[Launch, ...]:
    x, weight = operands["x"], operands["weight"]
    config = choose(TUNABLE, (len(x), *weight.shape), storage_dtype(x), like=x)
    return plan_config(config, **operands)


def _plan_tensor(**operands: Any) -> tuple[Launch, ...]:
    if not fits_tensor_cores(**operands):
        return _plan_chosen(**operands)
    return plan_tile(tile_for(len(operands["x"])), **operands)


_DTYPES = ("float32", "float16", "bfloat16")
_EXAMPLE = (1, 64, 2048)
_PLAIN = (False, False)  # neither gate nor norm
_WARP_KERNELS = (warp_kernel(1, *_PLAIN), warp_kernel(2, *_PLAIN))
_SPLIT_KERNELS = tuple(
    dict.fromkeys(
        split_kernel(1, rule((1, N, K), dtype), warps_of_row(N, K, dtype), *_PLAIN, False)
        for N, K in (_EXAMPLE[1:], (1, 64 * _EXAMPLE[2]))
        for dtype in _DTYPES
    )
)

_TENSOR_KERNELS = tuple(
    dict.fromkeys(
        tensor_kernel(TILES[0], warps_of_tile(TILES[0], N, K), *_PLAIN, False)
        for N, K in (_EXAMPLE[1:], (1, 64 * _EXAMPLE[2]))
    )
)

LADDER = Ladder(
    name="gemv",
    steps=(
        Step(
            "naive",
            "A thread a row of weights: simple, and a sector of memory for each number of W.",
            plan_naive,
            (naive_kernel(*_PLAIN),),
        ),
        Step(
            "warp",
            "A warp a row of weights, lanes along K: all bytes of each sector are used.",
            plan_warp,
            _WARP_KERNELS,
        ),
        Step(
            "vectorised",
            "16 bytes a load: an eighth of the requests for halves.",
            plan_vectorised,
            (vectorised_kernel(1, *_PLAIN), *_WARP_KERNELS),
        ),
        Step(
            "in_flight",
            "8 loads under way before the first is used: memory never waits to be asked.",
            plan_in_flight,
            (split_kernel(1, Config(4, 2), 1, *_PLAIN, False), *_WARP_KERNELS),
        ),
        Step(
            "split",
            "Up to 4 warps share a row: work for all SMs, and what is read at one time is near.",
            _plan_chosen,
            (*_SPLIT_KERNELS, *_WARP_KERNELS),
        ),
        Step(
            "tensor",
            "Tensor cores multiply: 8 rows of x take the time of one.",
            _plan_tensor,
            (*_TENSOR_KERNELS, *_SPLIT_KERNELS, *_WARP_KERNELS),
            TENSOR_CORES,
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=_DTYPES,
    example=_EXAMPLE,
    axes="M N K",
    ceiling="memory",
    fewest_bytes=lambda shape, itemsize: (
        (shape[0] * shape[2] + shape[1] * shape[2] + shape[0] * shape[1]) * itemsize
    ),
    flops=lambda shape: 2 * math.prod(shape),
)

TUNABLE = Tunable(
    LADDER,
    rule,
    candidates,
    plan_config,
    shapes=tuple(
        (M, N, K)
        for M in (1, 8)
        for N, K in ((4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096))
    ),
    # A kernel for 8 rows runs 5 as well.
    bucket=lambda shape: (rows_compiled(shape[0]), *shape[1:]),
)
