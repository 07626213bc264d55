"""What ``llm-numba bench kernels`` runs: ladders, shapes, and the PyTorch that does the same."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.kernels import basics, gemm, layernorm, reduce, softmax, transpose
from llm_numba.kernels.ladder import Ladder, Operands

# Takes the module torch and the operands as tensors, and returns the result.
Eager = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Point:
    """A ladder at one shape and dtype.

    Attributes
    ----------
    name : str
        ``"softmax/bfloat16"``.
    ladder : Ladder
    shape : tuple of int
    dtype : str
    steps : tuple of str
        Empty for all.
    changes : dict
        Operands that differ from the ladder's own.
    expect : callable or None
        In place of the ladder's own.
    bytes_of : callable or None
        In place of the ladder's ``fewest_bytes``.
    by_rows : tuple of str
        Operands of which some rows say all about those rows of the outputs: a float64 reference of
        the whole would take minutes. Empty where it is cheap.
    eager : callable or None
        The same in PyTorch, as people write it.
    eager_code : str
        How it reads.
    compiled : bool
        Whether torch.compile runs as well. It makes nothing of a single call of a library.
    """

    name: str
    ladder: Ladder
    shape: tuple[int, ...]
    dtype: str
    steps: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    expect: Callable[..., dict[str, np.ndarray]] | None = None
    bytes_of: Callable[[tuple[int, ...], int], int] | None = None
    by_rows: tuple[str, ...] = ()
    eager: Eager | None = None
    eager_code: str = ""
    compiled: bool = False

    @property
    def chosen(self) -> list[Any]:
        """The steps to run."""
        return [step for step in self.ladder.steps if not self.steps or step.name in self.steps]

    @property
    def fewest_bytes(self) -> int:
        """Bytes that must cross global memory."""
        count = self.bytes_of or self.ladder.fewest_bytes
        return count(self.shape, np.dtype(self.dtype).itemsize)

    def operands(self, seed: int = 0) -> Operands:
        """Make the operands, NumPy arrays and numbers."""
        made = self.ladder.operands(self.shape, np.dtype(self.dtype), seed) | self.changes
        return {name: value for name, value in made.items() if value is not ABSENT}

    def expected(self, operands: Operands, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the outputs in float64, or some rows of them."""
        some = {
            name: value[rows] if name in self.by_rows else value for name, value in operands.items()
        }
        return (self.expect or self.ladder.expect)(**some)


ABSENT = object()  # an operand of the ladder that this point does without

_ROWS = (16384, 8192)
_SQUARE = (8192, 8192)
_LINE = (1 << 26,)


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


def _eager_fused(norm: Eager, activation: str) -> Eager:
    def run(torch: Any, o: dict[str, Any]) -> Any:
        summed = o | {"x": o["x"] + o["residual"]}
        return getattr(torch.nn.functional, activation)(norm(torch, summed))

    return run


def _norm(ladder: Ladder, norm: Eager, expect: Callable[..., Any], code: str) -> Point:
    """Make the point of a norm alone, without what the ladder fuses to it."""
    vectors = 2 if ladder is layernorm.LADDER else 1
    return Point(
        f"{ladder.name}/bfloat16",
        ladder,
        _ROWS,
        "bfloat16",
        ("naive", "warp", "vectorised"),
        {"residual": ABSENT, "total": ABSENT, "activation": None},
        expect,
        bytes_of=lambda shape, itemsize: (2 * shape[0] + vectors) * shape[1] * itemsize,
        by_rows=("x", "out"),
        eager=norm,
        eager_code=code,
        compiled=True,
    )


def _fused_norm(ladder: Ladder, norm: Eager, activation: str, code: str) -> Point:
    return Point(
        f"{ladder.name}_fused/bfloat16",
        ladder,
        _ROWS,
        "bfloat16",
        by_rows=("x", "residual", "out", "total"),
        eager=_eager_fused(norm, activation),
        eager_code=code,
        compiled=True,
    )


def _sum(dtype: str, **options: Any) -> Point:
    return Point(f"row_sum/{dtype}", reduce.LADDER, _ROWS, dtype, by_rows=("x", "out"), **options)


def _softmax(dtype: str) -> Point:
    return Point(
        f"softmax/{dtype}",
        softmax.LADDER,
        _ROWS,
        dtype,
        changes={"scale": 1.0},  # PyTorch's takes none
        by_rows=("x", "out"),
        eager=lambda torch, o: torch.softmax(o["x"], -1),
        eager_code="torch.softmax(x, -1)",
        compiled=True,
    )


def _transpose(dtype: str) -> Point:
    return Point(
        f"transpose/{dtype}",
        transpose.LADDER,
        _SQUARE,
        dtype,
        eager=lambda torch, o: o["x"].t().contiguous(),
        eager_code="x.t().contiguous()",
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
    _transpose("float32"),
    _transpose("bfloat16"),
    _softmax("float32"),
    _softmax("bfloat16"),
    _norm(
        layernorm.LADDER,
        _eager_layer_norm,
        _layer_norm,
        "F.layer_norm(x, (N,), weight, bias, eps)",
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
        "silu",
        "F.silu(F.rms_norm(x + residual, (N,), weight, eps))",
    ),
    Point(
        "gemm/float32",
        gemm.LADDER,
        (4096, 4096, 4096),
        "float32",
        by_rows=("x", "out"),
        eager=lambda torch, o: torch.matmul(o["x"], o["weight"].t()),
        eager_code="torch.matmul(x, weight.t()), TF32 off",
    ),
)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    r"""Return :math:`\|found - expected\| / \|expected\|`, in float64; NaN if there is one.

    Parameters
    ----------
    found, expected : ndarray
        Of one shape.
    """
    far = np.linalg.norm(found.astype(np.float64).ravel() - expected.ravel())
    return float(far / max(float(np.linalg.norm(expected.ravel())), math.ulp(0.0)))


def allowed_error(output: np.ndarray, terms: int) -> float:
    """Return the relative error that rounding explains.

    Storage rounds each number once, by half a unit in the last place at most. Sums of float32 are
    off by about the square root of their terms in units in the last place; each bound is twice
    that, so that luck is not needed.

    Parameters
    ----------
    output : ndarray
        Its dtype is what is stored.
    terms : int
        Of the longest sum.
    """
    if output.dtype.kind in "iu":
        return 0.0
    storage = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
    return 2 * (storage[output.dtype.name] + math.sqrt(terms) * 2.0**-24)
