r"""Whole fragments out of shared memory: a warp loads four small matrices in one instruction.

What :mod:`~llm_numba.kernels.ptx.tensor` multiplies lies in fragments: a lane has two neighbours of
a row in one word, two of the row eight further down in another. With ordinary loads each word is a
load of its own, of 4 bytes. ``ldmatrix`` loads four matrices of 8 x 8 numbers of 16 bits. Who names
a row and who gets it are different lanes:

::

    lane 8 i + r names row r of matrix i:        lane 4 g + t gets, of row g of matrix i,
    an address of 16 bytes, 8 numbers            numbers 2t and 2t + 1 as its word i

    matrix i      | 0 1 | 2 3 | 4 5 | 6 7 |
    row 0         |  0  |  1  |  2  |  3  |      lanes that get them
    row 1         |  4  |  5  |  6  |  7  |
      :
    row 7         | 28  | 29  | 30  | 31  |

The rows may lie anywhere. If they are named so, lane l the packet l / 16 of row l % 16,

::

                  k = 0 .. 7   8 .. 15
    rows 0 .. 7       0           2           then the words are a0, a1, a2, a3 of A; and of a W
    rows 8 .. 15      1           3           whose rows are columns of B, words 0 and 2 are b0 and
                                              b1 of its first eight, words 1 and 3 of the others

A matrix is 128 bytes: one pass over the banks, if its eight rows lie in eight different groups of
four banks.

Source: "PTX ISA", ``ldmatrix``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.kernels.ptx.vectors import FOUR_WORDS, pointer_to_words
from llm_numba.simulator.twins import twin

_SHARED = FOUR_WORDS.as_pointer(3)
_OF_16_BITS = (types.float16, types.uint16)
_MATRICES = types.UniTuple(types.uint32, 4)
_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.LiteralStructType([WORD] * 4), [WORD]),
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];",
    "=r,=r,=r,=r,r,~{memory}",
    True,
)


@intrinsic
def ldmatrix_x4(typing_context, array, index):
    """Load four matrices of 8 x 8 numbers from shared memory as fragments.

    All 32 lanes of a warp execute it together. It takes a pass for each matrix, and more where
    rows of one matrix share banks.

    Instruction: ``ldmatrix.sync.aligned.m8n8.x4.shared.b16``. Capability: sm_75.

    Parameters
    ----------
    array : C-contiguous shared array of float16 or uint16 (bfloat16)
    index : int
        Element at which the row begins that this lane names: row ``lane % 8`` of matrix
        ``lane // 8``. Counted from the start of the array however many axes it has; its address
        must be a multiple of 16.

    Returns
    -------
    tuple of 4 uint32
        Of each matrix two neighbours of a row, the first in the lower half; see above.
    """
    is_array = isinstance(array, types.Array) and array.layout == "C"
    if not is_array or array.dtype not in _OF_16_BITS:
        raise TypingError(
            f"ldmatrix_x4 loads from a C-contiguous array of one of {_OF_16_BITS}, not {array}."
        )

    def codegen(context, builder, signature, args):
        pointer = pointer_to_words(context, builder, array, *args)
        address = builder.ptrtoint(builder.addrspacecast(pointer, _SHARED), WORD)
        # Convergent: LLVM must not move it to where fewer lanes of the warp meet it.
        words = builder.call(_LOAD, [address], attrs=("convergent",))
        items = [builder.extract_value(words, k) for k in range(4)]
        return context.make_tuple(builder, _MATRICES, items)

    return _MATRICES(array, types.int64), codegen


@twin(ldmatrix_x4, collective=True, whole_warp=True)
def _(lanes, array, index):
    named, cell = lanes.places(array, index, 8)
    rows = lanes.by_warp(cell[:, 0]).reshape(-1, 4, 8)  # [warps, matrix, row]
    # [warps, g, t, matrix, neighbour]: lane 4 g + t gets numbers 2t and 2t + 1 of row g.
    pairs = np.arange(8).reshape(4, 1, 2)
    got = rows.transpose(0, 2, 1)[:, :, None, :, None] + pairs
    got = got.reshape(-1, 8)[lanes.warps.row * 32 + lanes.warps.lane]
    if lanes.machine.watched:
        # The rows that lanes name make the passes; what they get is what they read.
        size = array.dtype.itemsize
        lanes.machine.observer.access(lanes, "load", array, named, got, size)
    words = array.buffer.typed(array.dtype)[got].view(np.uint32)
    return tuple(words.T.astype(np.int64))
