"""Points of matrix products: GEMM on ordinary units and on tensor cores, GEMV for decoding."""

from typing import Any

import numpy as np

from llm_numba.bench.kernel_points import Point, repeated
from llm_numba.kernels import gemm, gemm_hopper, gemm_tensorcore, gemv
from llm_numba.kernels.ladder import Operands


def _eager(torch: Any, o: dict[str, Any]) -> Any:
    return torch.nn.functional.linear(o["x"], o["weight"])


def _few_random_weights(shape: tuple[int, int, int], dtype: np.dtype, seed: int) -> Operands:
    made = repeated(gemv.LADDER, ("weight",), axis=1)(shape, dtype, seed)
    return made | {"out": np.full(shape[:2], np.nan, dtype)}


def _gemv(N: int, K: int, M: int = 1, steps: int = 1) -> Point:
    """Make the point of M rows times the transpose of [N, K], for the ladder's last steps."""
    rows = "" if M == 1 else f"{M}x"
    return Point(
        f"gemv_{rows}{N}x{K}/bfloat16",
        gemv.LADDER,
        (M, N, K),
        "bfloat16",
        steps=tuple(step.name for step in gemv.LADDER.steps[-steps:]),
        make=_few_random_weights,
        eager=_eager,
        eager_code="F.linear(x, weight)",
    )


def _tensorcore(name: str, M: int, N: int, K: int, steps: int = 1) -> Point:
    """Make the point of a product on tensor cores, for the ladder's last steps."""
    return Point(
        f"{name}/bfloat16",
        gemm_tensorcore.LADDER,
        (M, N, K),
        "bfloat16",
        steps=tuple(step.name for step in gemm_tensorcore.LADDER.steps[-steps:]),
        by_rows=("x", "out"),
        eager=_eager,
        eager_code="F.linear(x, weight)",
    )


def _hopper(name: str, M: int, N: int, K: int, steps: int = 1) -> Point:
    """Make the point of a product on Hopper's tensor cores, for the ladder's last steps."""
    return Point(
        f"{name}/bfloat16",
        gemm_hopper.LADDER,
        (M, N, K),
        "bfloat16",
        steps=tuple(step.name for step in gemm_hopper.LADDER.steps[-steps:]),
        by_rows=("x", "out"),
        eager=_eager,
        eager_code="F.linear(x, weight)",
    )


POINTS = (
    Point(
        "gemm/float32",
        gemm.LADDER,
        (4096, 4096, 4096),
        "float32",
        by_rows=("x", "out"),
        eager=_eager,
        eager_code="F.linear(x, weight), TF32 off",
    ),
    _tensorcore("gemm_tensorcore", 4096, 4096, 4096, steps=len(gemm_tensorcore.LADDER.steps)),
    _tensorcore("gemm_tensorcore_8192", 8192, 8192, 8192, steps=3),
    _tensorcore("gemm_tensorcore_2048x14336x4096", 2048, 14336, 4096),
    _tensorcore("gemm_tensorcore_256x14336x4096", 256, 14336, 4096),
    _tensorcore("gemm_tensorcore_64x14336x4096", 64, 14336, 4096),
    _hopper("gemm_hopper", 4096, 4096, 4096, steps=len(gemm_hopper.LADDER.steps)),
    _hopper("gemm_hopper_8192", 8192, 8192, 8192, steps=3),
    _hopper("gemm_hopper_2048x14336x4096", 2048, 14336, 4096, steps=3),
    _gemv(4096, 4096, steps=len(gemv.LADDER.steps)),
    _gemv(14336, 4096, steps=2),
    _gemv(4096, 14336, steps=2),
    _gemv(128256, 4096, steps=2),
    *(_gemv(*shape, M=8, steps=2) for shape in ((4096, 4096), (14336, 4096), (4096, 14336))),
    *(_gemv(14336, 4096, M=M) for M in (16, 32)),
)
