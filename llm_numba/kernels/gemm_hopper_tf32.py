"""float32 on Hopper's tensor cores, for who asks for it by name: operands lose 13 bits of 23.

.. math:: C = A B^T

Tensor cores take of a float32 its sign, its exponent and the upper 10 bits of its fraction: *tf32*.
Products are exact, sums are float32. An operand is off by up to 2^-10 of itself, about as in
float16, but with the range of float32. So a product of float32 is never sent here by itself: the
:mod:`ladder on ordinary units <llm_numba.kernels.gemm>` keeps all bits.

The kernel is that of :mod:`~llm_numba.kernels.gemm_hopper_specialised`. It counts along K in 2
bytes, and 128 bytes of a slab are 64 of those or 32 float32; an instruction takes 32 bytes either
way. All that differs is what the instruction is told that its bytes are::

    A [M, K] float32, as its halves [M, 2 K]     a slab of 64 halves, 32 float32
    +----+----+----+----+----+----+----+----+    +---------------------------------+
    |   k = 0 |   k = 1 |   k = 2 |   k = 3 |    | 8 of k | 8 of k | 8 of k | 8 .. |
    +----+----+----+----+----+----+----+----+    +---------------------------------+

2 M N K FLOPs, of which the tensor cores make half as many a second as of float16; the fewest bytes
are A, B and C once each.

Source: NVIDIA, "PTX ISA", ``wgmma``, "Alternate Floating-Point Data Formats".
"""

from typing import Any

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.gemm_hopper import LARGE, TOGETHER, is_paired, require_hopper, tiles_of
from llm_numba.kernels.gemm_hopper_pieces import GROUP_THREADS, Tile
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_plans import present
from llm_numba.runtime import Launch, empty, launch_all, tensor_map
from llm_numba.runtime.room import room_of
from llm_numba.runtime.tensor_maps import why_no_map


def plan_tf32(x: Any, weight: Any, out: Any, tile: Tile = LARGE) -> tuple[Launch, ...]:
    """Plan a product by tf32.

    Parameters
    ----------
    x, weight : float16 [M, 2 K] and [N, 2 K]
        The halves of float32, kept alive by the caller until the launch.
    out : float32 [M, N]
    tile : Tile
    """
    maps = tensor_map(x, tile.rows), tensor_map(weight, tile.columns)
    blocks = min(tiles_of(tile, out), room_of(out).multiprocessors)
    args = (*maps, x.shape[1], out, TOGETHER, is_paired(out), *present(None, None, out, out))
    threads = GROUP_THREADS * (1 + tile.groups)
    return (Launch(specialised("tf32", tile), (blocks,), (threads,), args, tile.shared_bytes),)


def gemm_tf32(x: Any, weight: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Multiply float32 by the transpose of a weight matrix on an H100's or H200's tensor cores.

    Parameters
    ----------
    x : float32 [M, K]
        Contiguous, on a device, at a multiple of 16 bytes; K is a multiple of 4. Of each number
        the upper 10 bits of the fraction count.
    weight : float32 [N, K]
        Likewise.
    out : float32 [M, N], optional
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    float32 [M, N]
        `out`, or a new array.

    Raises
    ------
    DeviceError
        If the GPU is of another compute capability than 9.0.
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, or the copy engine cannot
        address an operand.
    """
    checks.array("x", x, ndim=2, dtype="float32")
    same = {"dtype": "float32", "like": x}
    checks.array("weight", weight, shape=(None, x.shape[1]), **same)
    shape = len(x), len(weight)
    if out is None:
        out = empty(shape, x.dtype, like=x)
    checks.array("out", out, shape=shape, **same)
    require_hopper(x)
    if not out.size:
        return out
    if not x.shape[1]:
        out[...] = 0  # the sum of no products
        return out
    for name, matrix in (("x", x), ("weight", weight)):
        if problem := why_no_map(matrix):
            raise KernelArgumentError(
                f"The copy engine cannot address {name!r}: {problem}.",
                "Use gemm, or copy the operand to a fresh array with K a multiple of 4.",
            )
    halves = x.view("float16"), weight.view("float16")
    launch_all(plan_tf32(*halves, out), stream)
    return out
