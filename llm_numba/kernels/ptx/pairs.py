"""Two neighbours at once: what a thread has of a tensor core's result."""

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
