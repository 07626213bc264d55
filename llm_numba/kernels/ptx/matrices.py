r"""Whole fragments out of shared memory and back: four small matrices in one instruction.

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

*Transposed*. B's fragments hold neighbours along k. Where B lies as [K, N], those are in two rows.
:func:`ldmatrix_x4_trans` gives lane 4 g + t column g of a matrix instead of row g::

    matrix i      |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |
    rows 0, 1     |  0  |  4  |  8  | 12  | 16  | 20  | 24  | 28  |    lanes that get them: the
    rows 2, 3     |  1  |  5  |  9  | 13  | 17  | 21  | 25  | 29  |    upper row in the lower half
      :                                                                of the word
    rows 6, 7     |  3  |  7  | 11  | 15  | 19  | 23  | 27  | 31  |

*Back*. :func:`stmatrix_x4` is the first picture read the other way: lane 4 g + t gives numbers 2t
and 2t + 1 of row g, and lane 8 i + r says where row r of matrix i goes. Sums of a product lie so,
rounded in pairs. Stored one by one, 4 bytes each, a warp would need four instructions.

Source: "PTX ISA", ``ldmatrix``, ``stmatrix``.
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


def _loading(order):
    """Return the instruction that loads, with rows or with columns to a lane."""
    return ir.InlineAsm(
        ir.FunctionType(ir.LiteralStructType([WORD] * 4), [WORD]),
        f"ldmatrix.sync.aligned.m8n8.x4{order}.shared.b16 {{$0, $1, $2, $3}}, [$4];",
        "=r,=r,=r,=r,r,~{memory}",
        True,
    )


_LOAD, _LOAD_TRANSPOSED = _loading(""), _loading(".trans")
_STORE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD] * 5),
    "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};",
    "r,r,r,r,r,~{memory}",
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
    return _fragments("ldmatrix_x4", array, _LOAD)


@twin(ldmatrix_x4, collective=True, whole_warp=True)
def _(lanes, array, index):
    return _loaded(lanes, array, index, columns=False)


@intrinsic
def ldmatrix_x4_trans(typing_context, array, index):
    """Load four matrices of 8 x 8 numbers from shared memory, and transpose each.

    All 32 lanes of a warp execute it together; it costs what :func:`ldmatrix_x4` does.

    Instruction: ``ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16``. Capability: sm_75.

    Parameters
    ----------
    array : C-contiguous shared array of float16 or uint16 (bfloat16)
    index : int
        As of :func:`ldmatrix_x4`.

    Returns
    -------
    tuple of 4 uint32
        Of each matrix two neighbours of a column, the upper in the lower half; see above.
    """
    return _fragments("ldmatrix_x4_trans", array, _LOAD_TRANSPOSED)


@twin(ldmatrix_x4_trans, collective=True, whole_warp=True)
def _(lanes, array, index):
    return _loaded(lanes, array, index, columns=True)


@intrinsic
def stmatrix_x4(typing_context, array, index, words):
    """Store four matrices of 8 x 8 numbers, which lie as fragments, to shared memory.

    All 32 lanes of a warp execute it together; passes as of :func:`ldmatrix_x4`.

    Instruction: ``stmatrix.sync.aligned.m8n8.x4.shared.b16``. Capability: sm_90.

    Parameters
    ----------
    array : C-contiguous shared array of float16 or uint16 (bfloat16)
    index : int
        Where the row begins that this lane names; as of :func:`ldmatrix_x4`.
    words : tuple of 4 uint32
        Of each matrix two neighbours of a row, the first in the lower half.
    """
    _check("stmatrix_x4", array)
    if words != _MATRICES:
        raise TypingError(f"stmatrix_x4 stores {_MATRICES}, not {words}.")

    def codegen(context, builder, signature, args):
        items = [builder.extract_value(args[2], k) for k in range(4)]
        address = _address(context, builder, array, *args[:2])
        builder.call(_STORE, [address, *items], attrs=("convergent",))
        return context.get_dummy_value()

    return types.void(array, types.int64, _MATRICES), codegen


@twin(stmatrix_x4, collective=True, whole_warp=True)
def _(lanes, array, index, words):
    named, cell = lanes.places(array, index, 8)
    given = _shares(lanes, cell, columns=False)
    table = np.stack([lanes.vector(word).astype(np.uint32) for word in words], axis=1)
    values = table.view(array.dtype)
    if lanes.machine.watched:
        size = array.dtype.itemsize
        lanes.machine.observer.access(lanes, "store", array, named, given, size, values)
    array.buffer.typed(array.dtype)[given] = values
    lanes.machine.progress += 1


def _check(name, array):
    is_array = isinstance(array, types.Array) and array.layout == "C"
    if not is_array or array.dtype not in _OF_16_BITS:
        raise TypingError(
            f"{name} takes a C-contiguous array of one of {_OF_16_BITS}, not {array}."
        )


def _fragments(name, array, load):
    """Return signature and code of an intrinsic that loads fragments."""
    _check(name, array)

    def codegen(context, builder, signature, args):
        # Convergent: LLVM must not move it to where fewer lanes of the warp meet it.
        address = _address(context, builder, array, *args)
        words = builder.call(load, [address], attrs=("convergent",))
        items = [builder.extract_value(words, k) for k in range(4)]
        return context.make_tuple(builder, _MATRICES, items)

    return _MATRICES(array, types.int64), codegen


def _address(context, builder, array, value, index):
    pointer = pointer_to_words(context, builder, array, value, index)
    return builder.ptrtoint(builder.addrspacecast(pointer, _SHARED), WORD)


def _loaded(lanes, array, index, columns):
    """Return what each lane gets of the rows that all have named."""
    named, cell = lanes.places(array, index, 8)
    got = _shares(lanes, cell, columns)
    if lanes.machine.watched:
        # The rows that lanes name make the passes; what they get is what they read.
        size = array.dtype.itemsize
        lanes.machine.observer.access(lanes, "load", array, named, got, size)
    words = array.buffer.typed(array.dtype)[got].view(np.uint32)
    return tuple(words.T.astype(np.int64))


def _shares(lanes, cell, columns):
    """Return where each lane's numbers lie: int [n, 8], two of each matrix."""
    first = lanes.by_warp(cell[:, 0]).reshape(-1, 4, 8, 1)
    cells = first + np.arange(8)  # [warps, matrix, row, column]
    if columns:
        cells = cells.swapaxes(2, 3)
    # Lane 4 g + t: of row g, or of column g, numbers 2t and 2t + 1.
    shares = cells.reshape(-1, 4, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 8)
    return shares[lanes.warps.row * 32 + lanes.warps.lane]
