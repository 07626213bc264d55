"""Points of matrix products: GEMM on ordinary float32 units, GEMV of the shapes of decoding."""

from typing import Any

import numpy as np

from llm_numba.bench.kernel_points import Point, repeated
from llm_numba.kernels import gemm, gemv
from llm_numba.kernels.ladder import Operands


def _eager(torch: Any, o: dict[str, Any]) -> Any:
    return torch.nn.functional.linear(o["x"], o["weight"])


def _few_random_weights(shape: tuple[int, int, int], dtype: np.dtype, seed: int) -> Operands:
    made = repeated(gemv.LADDER, ("weight",), axis=1)(shape, dtype, seed)
    return made | {"out": np.full(shape[:2], np.nan, dtype)}


def _gemv(N: int, K: int, *, all_steps: bool = False) -> Point:
    """Make the point of one row times the transpose of [N, K]."""
    return Point(
        f"gemv_{N}x{K}/bfloat16",
        gemv.LADDER,
        (1, N, K),
        "bfloat16",
        steps=() if all_steps else (gemv.LADDER.steps[-1].name,),
        make=_few_random_weights,
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
    _gemv(4096, 4096, all_steps=True),
    _gemv(14336, 4096),
    _gemv(4096, 14336),
    _gemv(128256, 4096),
)
