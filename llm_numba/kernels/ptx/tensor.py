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

Source: "PTX ISA", "Matrix Fragments for mma.m16n8k16 with floating point type".
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT, WORD, widened
from llm_numba.simulator.twins import twin

_OF_A = types.UniTuple(types.uint32, 4)
_OF_B = types.UniTuple(types.uint32, 2)
_OF_C = types.UniTuple(types.float32, 4)
_NAMES = {types.float16: "f16", types.uint16: "bf16"}


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
    if not isinstance(array, types.Array) or array.dtype not in _NAMES:
        raise TypingError(f"mma_16x8x16 multiplies float16 or uint16 (bfloat16), not {array}.")
    if (a, b, c) != (_OF_A, _OF_B, _OF_C):
        raise TypingError(f"mma_16x8x16 takes {_OF_A}, {_OF_B} and {_OF_C}, not {a}, {b}, {c}.")
    name = _NAMES[array.dtype]
    assembly = ir.InlineAsm(
        ir.FunctionType(ir.LiteralStructType([FLOAT] * 4), [WORD] * 6 + [FLOAT] * 4),
        f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
        True,
    )

    def codegen(context, builder, signature, args):
        operands = [
            builder.extract_value(each, k) for each in args[1:] for k in range(each.type.count)
        ]
        # Convergent: LLVM must not move it to where fewer lanes of the warp meet it.
        result = builder.call(assembly, operands, attrs=("convergent",))
        items = [builder.extract_value(result, k) for k in range(4)]
        return context.make_tuple(builder, _OF_C, items)

    return _OF_C(array, _OF_A, _OF_B, _OF_C), codegen


@twin(mma_16x8x16, collective=True, whole_warp=True)
def _(lanes, array, a, b, c):
    rows, columns = _fragment(lanes, array.dtype, a), _fragment(lanes, array.dtype, b)
    # [warps, g, t, word, half] to [warps, row, k]: words 0 and 1 are rows, 2 and 3 again, later k.
    A = rows.reshape(-1, 8, 4, 2, 2, 2).transpose(0, 4, 1, 3, 2, 5).reshape(-1, 16, 16)
    B = columns.transpose(0, 1, 3, 2, 4).reshape(-1, 8, 16)
    product = np.einsum("wrk,wck->wrc", A, B)  # [warps, 16, 8]
    # Row g + 8 h, column 2t + e is number 2h + e of lane 4g + t.
    shares = product.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 32, 4)
    return tuple(
        (c[i].astype(np.float64) + lanes.from_warps(shares[:, :, i])).astype(np.float32)
        for i in range(4)
    )


def _fragment(lanes, dtype, words):
    """Unpack words of registers into float64 [warps, 8, 4, words, 2]."""
    table = np.stack([lanes.by_warp(word) for word in words], axis=-1).astype(np.uint32)
    return widened(table.view(dtype)).astype(np.float64).reshape(-1, 8, 4, len(words), 2)
