"""Points of matrix products: GEMM on ordinary units and on tensor cores, GEMV for decoding."""

from typing import Any

import numpy as np

from llm_numba.bench.kernel_points import Point, repeated
from llm_numba.kernels import gemm, gemm_hopper, gemm_skinny, gemm_tensorcore, gemv
from llm_numba.kernels.ladder import Ladder, Operands


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


def _product(
    ladder: Ladder, M: int, N: int, K: int, steps: int = 1, label: str | None = None
) -> Point:
    """Make the point of a product on tensor cores, for a ladder's last steps."""
    name = "_".join(filter(None, (ladder.name, f"{M}x{N}x{K}" if label is None else label)))
    return Point(
        f"{name}/bfloat16",
        ladder,
        (M, N, K),
        "bfloat16",
        steps=tuple(step.name for step in ladder.steps[-steps:]),
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
    *(
        _product(each, 4096, 4096, 4096, steps=len(each.steps), label="")
        for each in (gemm_tensorcore.LADDER, gemm_hopper.LADDER)
    ),
    _product(gemm_tensorcore.LADDER, 8192, 8192, 8192, steps=4, label="8192"),
    _product(gemm_tensorcore.LADDER, 2048, 14336, 4096),
    _product(gemm_tensorcore.LADDER, 256, 14336, 4096),
    _product(gemm_tensorcore.LADDER, 64, 14336, 4096),
    _product(gemm_skinny.LADDER, 64, 4096, 4096, steps=len(gemm_skinny.LADDER.steps)),
    _product(gemm_skinny.LADDER, 32, 14336, 4096),
    _product(gemm_skinny.LADDER, 128, 4096, 14336),
    _product(gemm_hopper.LADDER, 8192, 8192, 8192, steps=4, label="8192"),
    _product(gemm_hopper.LADDER, 2048, 14336, 4096, steps=4),
    _gemv(4096, 4096, steps=len(gemv.LADDER.steps)),
    _gemv(14336, 4096, steps=2),
    _gemv(4096, 14336, steps=2),
    _gemv(128256, 4096, steps=2),
    *(_gemv(*shape, M=8, steps=2) for shape in ((4096, 4096), (14336, 4096), (4096, 14336))),
    *(_gemv(14336, 4096, M=M) for M in (16, 32)),
)
