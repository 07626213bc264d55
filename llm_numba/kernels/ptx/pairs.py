"""Two neighbours at once: what a thread has of a tensor core's result."""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT, WORD, emit_rounded_pair, widened
from llm_numba.kernels.ptx.vectors import rounded_rows, unpacked
from llm_numba.simulator.twins import twin

_HALVES = (types.float16, types.uint16)
_TWO_FLOATS = ir.VectorType(FLOAT, 2)


@intrinsic
def store_pair(typing_context, array, index, low, high):
    """Round two float32 and store them side by side, in one access.

    Instruction: ``cvt.rn.bf16x2.f32`` or its like, ``st.global.u32``; ``st.global.v2.f32`` into
    float32. Capability: any; below sm_80 bfloat16 is rounded by integer instructions.

    Parameters
    ----------
    array : C-contiguous array of float16, uint16 (bfloat16) or float32
    index : int
        Where the first goes, counted from the start of the array however many axes it has; its
        address must be a multiple of 4, or of 8 in float32.
    low, high : float32
    """
    forms = (*_HALVES, types.float32)
    if not isinstance(array, types.Array) or array.dtype not in forms or array.layout != "C":
        raise TypingError(f"store_pair stores in C-contiguous arrays of {forms}, not {array}.")

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        if array.dtype == types.float32:
            place = builder.bitcast(builder.gep(data, [args[1]]), _TWO_FLOATS.as_pointer())
            both = ir.Constant(_TWO_FLOATS, ir.Undefined)
            for k, value in enumerate(args[2:]):
                both = builder.insert_element(both, value, ir.Constant(WORD, k))
            builder.store(both, place, align=8)
            return context.get_dummy_value()
        place = builder.bitcast(builder.gep(data, [args[1]]), WORD.as_pointer())
        word = emit_rounded_pair(builder, array.dtype, args[2], args[3])
        builder.store(word, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.float32, types.float32), codegen


@twin(store_pair)
def _(lanes, array, index, low, high):
    lanes.store(array, index, rounded_rows(lanes, array.dtype, (low, high)), count=2)


@intrinsic
def round_pair(typing_context, array, low, high):
    """Round two float32 to the elements of an array, side by side in one register.

    Instruction: ``cvt.rn.bf16x2.f32`` or its like. Capability: any, as of :func:`store_pair`.

    Parameters
    ----------
    array : array of float16 or uint16 (bfloat16)
        Only its type matters.
    low, high : float32

    Returns
    -------
    uint32
        For :func:`store_rounded`, or with others for
        :func:`~llm_numba.kernels.ptx.matrices.stmatrix_x4`.
    """
    if not isinstance(array, types.Array) or array.dtype not in _HALVES:
        raise TypingError(f"round_pair rounds for arrays of {_HALVES}, not for {array}.")

    def codegen(context, builder, signature, args):
        return emit_rounded_pair(builder, array.dtype, args[1], args[2])

    return types.uint32(array, types.float32, types.float32), codegen


@twin(round_pair)
def _(lanes, array, low, high):
    both = rounded_rows(lanes, array.dtype, (low, high))
    return both.view(np.uint32)[:, 0]


@intrinsic
def store_rounded(typing_context, array, index, pair):
    """Store what :func:`round_pair` returned, 4 bytes in one access.

    Instruction: ``st.global.u32``. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float16 or uint16 (bfloat16)
    index : int
        As of :func:`store_pair`.
    pair : uint32
    """
    if not isinstance(array, types.Array) or array.dtype not in _HALVES or array.layout != "C":
        raise TypingError(f"store_rounded stores in C-contiguous arrays of {_HALVES}, not {array}.")

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), WORD.as_pointer())
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32), codegen


@twin(store_rounded)
def _(lanes, array, index, pair):
    words = np.ascontiguousarray(lanes.vector(pair), np.uint32)
    lanes.store(array, index, words.view(array.dtype).reshape(-1, 2), count=2)


@intrinsic
def load_pair(typing_context, array, index):
    """Load two neighbours, 4 bytes in one access, and widen them.

    Instruction: ``ld.global.u32``, then the conversion of
    :func:`~llm_numba.kernels.ptx.elements.to_float`. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float16 or uint16 (bfloat16)
    index : int
        Of the first, counted from the start of the array however many axes it has; its address
        must be a multiple of 4.

    Returns
    -------
    tuple of 2 float32
    """
    if not isinstance(array, types.Array) or array.dtype not in _HALVES or array.layout != "C":
        raise TypingError(f"load_pair loads of C-contiguous arrays of {_HALVES}, not {array}.")
    result = types.UniTuple(types.float32, 2)

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), WORD.as_pointer())
        word = builder.load(place, align=4)
        return context.make_tuple(builder, result, unpacked(builder, array.dtype, [word]))

    return result(array, types.int64), codegen


@twin(load_pair, loads=True)
def _(lanes, array, index):
    return tuple(widened(lanes.load(array, index, count=2).T))
