"""The linear layer on a device: which kernel multiplies, by the number of rows.

Few rows, as when decoding, read all weights to use each once or a few times: memory is the
ceiling, and :mod:`llm_numba.kernels.gemv` is written for it: up to 16 rows where tensor cores can
multiply, and 8 elsewhere. It still is with more rows, as when a batch decodes, if tensor cores
multiply out of shared memory: that is :mod:`llm_numba.kernels.gemm_skinny`. With many rows, as when
a prompt comes in, each weight is used so often that arithmetic is the ceiling: that is
:mod:`llm_numba.kernels.gemm_tensorcore`, which leaves to :mod:`llm_numba.kernels.gemm` what tensor
cores cannot multiply; or :mod:`llm_numba.kernels.gemm_hopper_fused` on the GPUs that it is for. On
these, :mod:`llm_numba.kernels.gemm_hopper_few` tells which kernel takes 17 to 256 rows. Where a
slower kernel is taken because of the operands, :func:`llm_numba.runtime.telling.tell` says why.
"""

from functools import partial
from typing import Any

from llm_numba.kernels import checks, gemm, gemm_hopper_few, gemv
from llm_numba.kernels.gemm_hopper import HOPPER, why_not
from llm_numba.kernels.gemm_hopper_fused import fills, gemm_fused
from llm_numba.kernels.gemm_skinny import MOST_ROWS, chosen, gemm_skinny
from llm_numba.kernels.gemm_tensorcore import gemm_tensorcore
from llm_numba.kernels.gemm_tensorcore_plans import obstacle
from llm_numba.kernels.layernorm import rms_norm
from llm_numba.runtime import empty, stands_for, storage_dtype, tell
from llm_numba.runtime.room import room_of

# Fragments straight from memory serve so many rows as fast as any way through shared memory.
_MOST_BY_GEMV = 16


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
    out_dtype: Any = None,
    norm_weight: Any = None,
    eps: float = 0.0,
    batch_invariant: bool = False,
    out: Any = None,
    stream: Any = None,
) -> Any:
    """Multiply by a weight matrix, with a norm before it and what follows as an epilogue.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [M, K]
        Contiguous, on a device.
    weight : [N, K]
        Like all other operands of the dtype of `x` and on its device.
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
        With ``"silu_mul"`` N is 2F, and column f of the result is SiLU of column f times column
        F + f.
    residual : [M, N] or [M, F], optional
        Added after the activation; of the dtype of the result.
    out_dtype : {None, "float32"}
        Of the result: by default that of `out`, or of `x`.
    norm_weight : [K], optional
        Where given, rows of x are RMS-normalised first. Of more than 8 rows the normalised ones
        are rounded to the dtype of `x` in between, unless `batch_invariant`.
    eps : float
        Of that norm.
    batch_invariant : bool
        Make each row's result independent of how many others there are, to the bit: more than 8
        rows then take a launch for every 8, which read all weights each.
    out : [M, N] or [M, F], optional
        Where the result goes; `residual` itself is allowed, other operands are not.
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    [M, N] or [M, F]
        `out`, or a new array.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device.
    """
    checks.array("x", x, ndim=2)
    same = {"dtype": storage_dtype(x), "like": x}
    checks.array("weight", weight, shape=(None, x.shape[1]), **same)
    if norm_weight is not None:
        checks.array("norm_weight", norm_weight, shape=(x.shape[1],), **same)
        if len(x) > gemv.MAX_ROWS and not batch_invariant:
            # Fused, it would double the products, which memory does not hide any more.
            x, norm_weight = rms_norm(x, norm_weight, eps, stream=stream), None
    options = {"activation": activation, "stream": stream}
    by_gemv = {"norm_weight": norm_weight, "eps": eps, "out_dtype": out_dtype}
    most = gemv.MAX_ROWS
    if not batch_invariant:
        most = min(_MOST_BY_GEMV, gemv.most_rows(x, weight, norm_weight))
    if len(x) <= most:
        # One row or two keep the ordinary units less busy than memory.
        if len(x) <= 2 and not batch_invariant:
            by_gemv["step"] = "split"
        return gemv.gemv(x, weight, bias, residual=residual, out=out, **options, **by_gemv)
    formats = gemv.check_output_dtype(x, out_dtype)
    if out is None:
        columns = len(weight) // (2 if activation == "silu_mul" else 1)
        out = empty((len(x), columns), out_dtype or x.dtype, like=x)
    gemm.checked(x, weight, bias, activation, residual, out)
    checks.array("out", out, dtype=formats, like=x)
    if not batch_invariant:
        multiply = _kernel_for(x, weight, out, activation, residual)
        return multiply(x, weight, bias, residual=residual, out=out, **options)
    for start in range(0, len(x), gemv.MAX_ROWS):
        rows = slice(start, start + gemv.MAX_ROWS)
        part = None if residual is None else residual[rows]
        gemv.gemv(x[rows], weight, bias, residual=part, out=out[rows], **options, **by_gemv)
    return out


def _kernel_for(x: Any, weight: Any, out: Any, activation: str | None, residual: Any) -> Any:
    """Choose what multiplies more rows than GEMV takes; tell why where it is not the fastest."""
    many = len(x) > MOST_ROWS
    suits_hopper = stands_for(x, HOPPER[:2]) and (not many or fills(out, activation))
    unaddressable = why_not(x, weight) if suits_hopper else None
    by_warpgroups = suits_hopper and not unaddressable
    if by_warpgroups and many:
        return _for_hopper(x, weight, activation)
    # The kernels for few rows store packets of 16 bytes, also on Hopper.
    if problem := obstacle(x, weight, out, residual):
        tell(("gemm", problem), f"Products by ordinary units, not by tensor cores: {problem}")
    elif by_warpgroups:
        return _for_hopper(x, weight, activation)
    elif unaddressable:
        tell(
            ("mma.sync", unaddressable),
            f"Products by mma.sync, not by warpgroups: {unaddressable}.",
        )
    return gemm_tensorcore if many else gemm_skinny


def _for_hopper(x: Any, weight: Any, activation: str | None) -> Any:
    """Choose by predicted times where rows are few, and tiles where they are many."""
    if len(x) > gemm_hopper_few.MOST_ROWS:
        return gemm_fused
    shape, gated = (len(x), *weight.shape), activation == "silu_mul"
    choice = gemm_hopper_few.fastest(shape, gated, room_of(x), chosen(x, weight))
    if choice.kernel in ("streamed", "multicast"):
        return partial(gemm_skinny, step=choice.kernel)
    return partial(gemm_fused, cut=choice.cut)
