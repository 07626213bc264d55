"""The products of ``llm-numba bench gemm`` as PyTorch computes them."""

from collections.abc import Sequence
from typing import Any

from llm_numba.bench.gemm_points import Product
from llm_numba.bench.gpu_timing import Capture, Work, capture_torch
from llm_numba.bench.kernels import as_tensors
from llm_numba.kernels.ladder import Operands

CUBLAS = "cublas"
APART = "apart"


def peers(
    torch: Any, product: Product, sets: Sequence[Operands]
) -> dict[str, tuple[list[Work], Capture]]:
    """Return what a product is held against.

    Parameters
    ----------
    torch : module or None
        PyTorch; without it there is nothing.
    product : Product
    sets : sequence of dict
        Operands that take turns.

    Returns
    -------
    dict
        ``cublas``, the plain product, of float32 by tf32; or ``apart``, where that was measured
        elsewhere and ours has an epilogue of bias and GELU: the bias by cuBLAS, and GELU by a
        kernel of its own. Each with how it is captured.
    """
    if torch is None:
        return {}
    functional = torch.nn.functional
    if product.part == "tf32":  # no other product here is of float32
        torch.set_float32_matmul_precision("high")

    def plain(x: Any, weight: Any, **others: Any) -> Any:
        return functional.linear(x, weight)

    def apart(x: Any, weight: Any, bias: Any, **others: Any) -> Any:
        return functional.gelu(functional.linear(x, weight, bias))

    if product.part != "epilogues":
        name, compute = CUBLAS, plain
    elif "bias_gelu" in product.ways:
        name, compute = APART, apart
    else:
        return {}
    tensors = [as_tensors(torch, operands) for operands in sets]
    works = [lambda each=each: compute(**each) for each in tensors]
    return {name: (works, lambda works: capture_torch(torch, works))}
