"""Two neighbours at once: what a thread has of a tensor core's result."""

import numpy as np
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD, emit_rounded_pair
from llm_numba.kernels.ptx.vectors import rounded_rows
from llm_numba.simulator.twins import twin

_HALVES = (types.float16, types.uint16)


@intrinsic
def store_pair(typing_context, array, index, low, high):
    """Round two float32 and store them side by side, 4 bytes in one access.

    Instruction: ``cvt.rn.bf16x2.f32`` or its like, ``st.global.u32``. Capability: any; below
    sm_80 bfloat16 is rounded by integer instructions.

    Parameters
    ----------
    array : C-contiguous array of float16 or uint16 (bfloat16)
    index : int
        Where the first goes, counted from the start of the array however many axes it has; its
        address must be a multiple of 4.
    low, high : float32
    """
    if not isinstance(array, types.Array) or array.dtype not in _HALVES or array.layout != "C":
        raise TypingError(f"store_pair stores in C-contiguous arrays of {_HALVES}, not {array}.")

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
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
        For :func:`store_rounded`.
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
