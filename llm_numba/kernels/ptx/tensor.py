r"""Tensor cores: a warp multiplies two small matrices in one instruction.

``mma.sync`` takes A, 16 rows of 16 numbers, and B, 8 columns of 16, and adds A B to an accumulator
of 16 x 8 in float32. No thread has a matrix. The warp's 32 lanes share each, as *fragments*: lane
4 g + t, with g from 0 to 7 and t from 0 to 3, holds of

::

    A, 4 words of 2 numbers             B, 2 words                C, 4 float32

      k  2t, 2t+1 | 2t+8, 2t+9             column g                 column 2t   2t+1
         ---------+-----------          k  ----------                      ----------
    row g   a0    |    a2               2t     b0 low              row g    c0    c1
        g+8 a1    |    a3               2t+1   b0 high             row g+8  c2    c3
                                        2t+8   b1 low
                                        2t+9   b1 high

The four lanes of a row hold its 16 numbers, and the four lanes of a column of B those that meet
them. Which 16 of a longer row they are, and in which order, is nobody's business but the caller's:
a sum over k has no order, as long as A and B have the same.

*Other formats*. An instruction takes 32 bytes along K, whatever the numbers are: 8 of tf32, 32 of
8-bit floats or int8 (:mod:`~llm_numba.kernels.ptx.formats`). A word then holds 1 or 4 neighbours.
Word t of a row is the first of a lane, word t + 4 the second::

    words of a row    0  1  2  3  4  5  6  7      A, row g: a0 and a2; row g + 8: a1 and a3
    lane 4 g + t      t .. .. ..  t + 4 .. ..     B, column g: b0 and b1

Source: "PTX ISA", "Matrix Fragments for mma.m16n8k16 with floating point type", and the same for
``m16n8k8`` and ``m16n8k32``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT, WORD
from llm_numba.kernels.ptx.formats import format_of
from llm_numba.simulator.formats import as_multiplied, rounded_sums
from llm_numba.simulator.twins import twin

_OF_A = types.UniTuple(types.uint32, 4)
_OF_B = types.UniTuple(types.uint32, 2)


@intrinsic
def mma_16x8x16(typing_context, array, a, b, c):
    """Multiply 16 rows by 8 columns along 16 numbers, and add: the warp's tensor core.

    All 32 lanes of a warp execute it together. Products are exact, and added in float32; the
    hardware cuts off where a sum in float32 would round.

    Instruction: ``mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`` or its like with ``bf16``.
    Capability: sm_80.

    Parameters
    ----------
    array : array of float16 or uint16 (bfloat16)
        What the numbers of A and B are; only its type matters.
    a : tuple of 4 uint32
    b : tuple of 2 uint32
    c : tuple of 4 float32

    Returns
    -------
    tuple of 4 float32
        C + A B.
    """
    return _product("mma_16x8x16", 16, array, a, b, c)


@intrinsic
def mma_16x8x8(typing_context, array, a, b, c):
    """Multiply 16 rows by 8 columns along 8 numbers of tf32, and add.

    As :func:`mma_16x8x16`. Of the 23 bits of a fraction the lower 13 are not looked at.

    Instruction: ``mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32``. Capability: sm_80.

    Parameters
    ----------
    array : array of float32
        Only its type matters.
    a, b, c
        As of :func:`mma_16x8x16`; a word is the bits of one float32.

    Returns
    -------
    tuple of 4 float32
    """
    return _product("mma_16x8x8", 8, array, a, b, c)


@intrinsic
def mma_16x8x32(typing_context, array, a, b, c):
    """Multiply 16 rows by 8 columns along 32 numbers of 8 bits, and add.

    As :func:`mma_16x8x16`. Sums of int8 are int32, and wrap around.

    Instruction: ``mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32`` or its like with ``e5m2``,
    or ``s32.s8.s8.s32``. Capability: sm_89; of int8, sm_80.

    Parameters
    ----------
    array : array of int8, or what :func:`~llm_numba.kernels.ptx.formats.e4m3` or ``e5m2`` returns
        Only its type matters.
    a, b
        As of :func:`mma_16x8x16`; a word is four neighbours, the first in the lowest bits.
    c : tuple of 4 float32, or int32 of int8

    Returns
    -------
    tuple of 4 float32 or int32
    """
    return _product("mma_16x8x32", 32, array, a, b, c)


@twin(mma_16x8x16, mma_16x8x8, mma_16x8x32, collective=True, whole_warp=True)
def _(lanes, array, a, b, c):
    rows, columns = _fragment(lanes, array.dtype, a), _fragment(lanes, array.dtype, b)
    # [warps, g, t, word, neighbour] to [warps, row, k]: words 0 and 1 are rows, 2 and 3 again,
    # later k.
    length = 8 * rows.shape[-1]
    A = rows.reshape(-1, 8, 4, 2, 2, rows.shape[-1]).transpose(0, 4, 1, 3, 2, 5)
    B = columns.transpose(0, 1, 3, 2, 4).reshape(-1, 8, length)
    product = np.einsum("wrk,wck->wrc", A.reshape(-1, 16, length), B)  # [warps, 16, 8]
    # Row g + 8 h, column 2t + e is number 2h + e of lane 4g + t.
    shares = product.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 32, 4)
    sums = np.dtype(np.int32 if array.dtype == np.int8 else np.float32)
    found = [
        rounded_sums(c[i].astype(np.float64) + lanes.from_warps(shares[:, :, i]), sums)
        for i in range(4)
    ]
    return tuple(each.astype(np.int64) if sums == np.int32 else each for each in found)


def _product(name, depth, array, a, b, c):
    """Return signature and code of an intrinsic that multiplies fragments."""
    of = format_of(name, array, depth)
    of_c = types.UniTuple(of.sums, 4)
    if (a, b, c) != (_OF_A, _OF_B, of_c):
        raise TypingError(f"{name} takes {_OF_A}, {_OF_B} and {of_c}, not {a}, {b}, {c}.")
    kind, holds, sums = FLOAT if of.constraint == "f" else WORD, of.constraint, of.name_of_sums
    assembly = ir.InlineAsm(
        ir.FunctionType(ir.LiteralStructType([kind] * 4), [WORD] * 6 + [kind] * 4),
        f"mma.sync.aligned.m16n8k{depth}.row.col.{sums}.{of.name}.{of.name}.{sums} "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
        ",".join([f"={holds}"] * 4 + ["r"] * 6 + [holds] * 4),
        True,
    )

    def codegen(context, builder, signature, args):
        operands = [
            builder.extract_value(each, k) for each in args[1:] for k in range(each.type.count)
        ]
        # Convergent: LLVM must not move it to where fewer lanes of the warp meet it.
        result = builder.call(assembly, operands, attrs=("convergent",))
        items = [builder.extract_value(result, k) for k in range(4)]
        return context.make_tuple(builder, of_c, items)

    return of_c(array, _OF_A, _OF_B, of_c), codegen


def _fragment(lanes, dtype, words):
    """Unpack words of registers into float64 [warps, 8, 4, words, neighbours]."""
    table = np.stack([lanes.by_warp(word) for word in words], axis=-1).astype(np.uint32)
    numbers = as_multiplied(table.view(dtype))
    return numbers.reshape(-1, 8, 4, len(words), 4 // dtype.itemsize)
