"""Points of what works on numbers and rows: SAXPY, histogram, sums, transpose, softmax, norms."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.bench.kernel_points import ABSENT, Eager, Point, repeated
from llm_numba.kernels import basics, layernorm, reduce, softmax, transpose
from llm_numba.kernels.ladder import Ladder

_LINE = (1 << 26,)
# 268 MB in bfloat16: five times what the L2 cache of an H100 holds.
ROWS = (16384, 8192)
_SQUARE = (8192, 8192)
_FIRST_AND_LAST = ("naive", "warp", "vectorised")


def _sum(dtype: str, **options: Any) -> Point:
    return Point(
        f"row_sum/{dtype}",
        reduce.LADDER,
        ROWS,
        dtype,
        by_rows=("x", "out"),
        make=repeated(reduce.LADDER, ("x", "out")),
        **options,
    )


def _softmax(dtype: str, shape: tuple[int, int] = ROWS, name: str = "softmax") -> Point:
    return Point(
        f"{name}/{dtype}",
        softmax.LADDER,
        shape,
        dtype,
        steps=() if shape == ROWS else (softmax.LADDER.steps[-1].name,),
        changes={"scale": 1.0},  # PyTorch's takes none
        by_rows=("x", "out"),
        make=repeated(softmax.LADDER, ("x", "out")),
        eager=lambda torch, o: torch.softmax(o["x"], -1),
        eager_code="torch.softmax(x, -1)",
        compiled=True,
    )


def _transpose(dtype: str, shape: tuple[int, int]) -> Point:
    return Point(
        f"transpose/{dtype}",
        transpose.LADDER,
        shape,
        dtype,
        eager=lambda torch, o: o["x"].t().contiguous(),
        eager_code="x.t().contiguous()",
        compiled=True,
    )


# -- Norms ----------------------------------------------------------------------------------------


def _exact(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def _layer_norm(x, weight, bias, eps, out, activation):
    return {"out": reference.layer_norm(*_exact(x, weight, bias), eps)}


def _rms_norm(x, weight, eps, out, activation):
    return {"out": reference.rms_norm(*_exact(x, weight), eps)}


def _eager_layer_norm(torch: Any, o: dict[str, Any]) -> Any:
    return torch.nn.functional.layer_norm(
        o["x"], o["x"].shape[-1:], o["weight"], o["bias"], o["eps"]
    )


def _eager_rms_norm(torch: Any, o: dict[str, Any]) -> Any:
    return torch.nn.functional.rms_norm(o["x"], o["x"].shape[-1:], o["weight"], o["eps"])


def _eager_fused(norm: Eager, activation: str | None) -> Eager:
    def run(torch: Any, o: dict[str, Any]) -> Any:
        total = o["x"] + o["residual"]
        normed = norm(torch, o | {"x": total})
        if activation:
            normed = getattr(torch.nn.functional, activation)(normed)
        return {"out": normed, "total": total}

    return run


def _norm(ladder: Ladder, norm: Eager, expect: Callable[..., Any], code: str) -> Point:
    """Make the point of a norm alone, without what the ladder fuses to it."""
    vectors = 2 if ladder is layernorm.LADDER else 1
    return Point(
        f"{ladder.name}/bfloat16",
        ladder,
        ROWS,
        "bfloat16",
        _FIRST_AND_LAST,
        {"residual": ABSENT, "total": ABSENT, "activation": None},
        expect,
        bytes_of=lambda shape, itemsize: (2 * shape[0] + vectors) * shape[1] * itemsize,
        by_rows=("x", "out"),
        make=repeated(ladder, ("x", "out")),
        eager=norm,
        eager_code=code,
        compiled=True,
    )


def _fused_norm(ladder: Ladder, norm: Eager, activation: str | None, code: str) -> Point:
    name = f"{ladder.name}_fused" if activation else f"add_{ladder.name}"
    return Point(
        f"{name}/bfloat16",
        ladder,
        ROWS,
        "bfloat16",
        () if activation else _FIRST_AND_LAST,
        {} if activation else {"activation": None},
        by_rows=("x", "residual", "out", "total"),
        make=repeated(ladder, ("x", "residual", "out", "total")),
        eager=_eager_fused(norm, activation),
        eager_code=code,
        compiled=True,
    )


POINTS = (
    Point(
        "saxpy/float32",
        basics.LADDER,
        _LINE,
        "float32",
        eager=lambda torch, o: torch.add(o["y"], o["x"], alpha=o["alpha"]),
        eager_code="torch.add(y, x, alpha=alpha)",
    ),
    Point("histogram/int32", basics.HISTOGRAM_LADDER, (*_LINE, 256), "int32"),
    _sum(
        "float32",
        steps=("tree", "warp", "block", "vectorised"),
        eager=lambda torch, o: o["x"].sum(-1),
        eager_code="x.sum(-1)",
        compiled=True,
    ),
    _sum(
        "bfloat16",
        steps=("tree", "warp", "block", "vectorised"),
        eager=lambda torch, o: o["x"].sum(-1, dtype=torch.float32),
        eager_code="x.sum(-1, dtype=torch.float32)",
    ),
    _sum("int32"),
    _transpose("float32", _SQUARE),
    _transpose("bfloat16", ROWS),
    _softmax("float32"),
    _softmax("bfloat16"),
    _softmax("bfloat16", (4096, 32768), "softmax_32k"),
    _softmax("bfloat16", (2048, 65536), "softmax_64k"),
    _softmax("bfloat16", (1024, 131072), "softmax_128k"),
    _norm(
        layernorm.LADDER,
        _eager_layer_norm,
        _layer_norm,
        "F.layer_norm(x, (N,), weight, bias, eps)",
    ),
    _fused_norm(
        layernorm.LADDER,
        _eager_layer_norm,
        None,
        "F.layer_norm(x + residual, (N,), weight, bias, eps)",
    ),
    _fused_norm(
        layernorm.LADDER,
        _eager_layer_norm,
        "gelu",
        "F.gelu(F.layer_norm(x + residual, (N,), weight, bias, eps))",
    ),
    _norm(
        layernorm.RMS_LADDER,
        _eager_rms_norm,
        _rms_norm,
        "F.rms_norm(x, (N,), weight, eps)",
    ),
    _fused_norm(
        layernorm.RMS_LADDER,
        _eager_rms_norm,
        None,
        "F.rms_norm(x + residual, (N,), weight, eps)",
    ),
    _fused_norm(
        layernorm.RMS_LADDER,
        _eager_rms_norm,
        "silu",
        "F.silu(F.rms_norm(x + residual, (N,), weight, eps))",
    ),
)
