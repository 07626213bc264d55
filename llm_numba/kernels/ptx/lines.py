"""Lines: words that say themselves which call they belong to, so that no flag need follow them.

A flag tells that what was stored before it is there. It must wait until that has arrived. A *word*
of 8 bytes, of which 4 are data and 4 are a number, tells it of itself: the memory model has no half
of it arrive without the other. Who finds the number that it waits for has the data.

::

    byte      0        4        8        12       16
    line      | data   | number | data   | number |       two words, stored and loaded together
              '---- one word ---'---- one word ---'       each is whole; both need not be

Nothing else is ordered by it: neither what was stored before, nor the two words of a line.

Sources: "PTX ISA", "Memory Consistency Model": "Vector Data-types" (a vector is as many scalars, in
no order), "Scalar Data-types"; NCCL's protocol LL, which sends such words.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.simulator.twins import twin

_LONG = ir.IntType(64)
_POINTER = _LONG.as_pointer(1)
_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.LiteralStructType([_LONG] * 2), [_POINTER]),
    "ld.relaxed.sys.global.v2.b64 {$0, $1}, [$2];",
    "=l,=l,l,~{memory}",
    True,
)
_STORE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_POINTER, _LONG, _LONG]),
    "st.relaxed.sys.global.v2.b64 [$0], {$1, $2};",
    "l,l,l,~{memory}",
    True,
)
_LINE = types.UniTuple(types.uint32, 4)
_BITS = ir.Constant(_LONG, 32)


@intrinsic
def store_line(typing_context, array, index, low, high, number):
    """Store two words of data, each with the number of its call, where any GPU may load them.

    Instruction: ``st.relaxed.sys.global.v2.b64``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of uint64
        In this GPU's memory or in that of another.
    index : int
        Of the first word, even; counted from the start of the array however many axes it has.
    low, high : uint32
        The data.
    number : uint32
    """
    _check_lines("store_line", array)

    def codegen(context, builder, signature, args):
        number = builder.shl(builder.zext(args[4], _LONG), _BITS)
        words = [builder.or_(builder.zext(each, _LONG), number) for each in args[2:4]]
        builder.call(_STORE, [_address(context, builder, array, args[0], args[1]), *words])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32, types.uint32, types.uint32), codegen


@twin(store_line)
def _(lanes, array, index, low, high, number):
    number = lanes.vector(number).astype(np.uint64) << np.uint64(32)
    words = [lanes.vector(each).astype(np.uint64) | number for each in (low, high)]
    lanes.store(array, index, np.stack(words, axis=1), count=2, kind="store.relaxed.sys")


@intrinsic
def load_line(typing_context, array, index):
    """Load two words of data with the numbers of their calls, which another GPU may be storing.

    Instruction: ``ld.relaxed.sys.global.v2.b64``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of uint64
    index : int
        As for :func:`store_line`.

    Returns
    -------
    tuple of 4 uint32
        The first word's data and number, then the second's.
    """
    _check_lines("load_line", array)

    def codegen(context, builder, signature, args):
        loaded = builder.call(_LOAD, [_address(context, builder, array, *args)])
        parts = []
        for k in range(2):
            word = builder.extract_value(loaded, k)
            parts += [builder.trunc(each, WORD) for each in (word, builder.lshr(word, _BITS))]
        return context.make_tuple(builder, _LINE, parts)

    return _LINE(array, types.int64), codegen


@twin(load_line, loads=True)
def _(lanes, array, index):
    words = lanes.load(array, index, count=2, kind="load.relaxed.sys")
    return tuple(words.view(np.uint32).T.astype(np.int64))


def _check_lines(name, array):
    if not isinstance(array, types.Array) or array.dtype != types.uint64 or array.layout != "C":
        raise TypingError(f"{name} takes a C-contiguous array of uint64, not {array}.")


def _address(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.addrspacecast(builder.gep(data, [index]), _POINTER)
