"""Four numbers at once, whatever they are stored in: 16 bytes, or 8 of 2-byte elements.

A thread that multiplies rows by columns needs room for all that it loads. Of 8 rows, 8 numbers each
would be 64 registers before the first sum.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD, widened
from llm_numba.kernels.ptx.vectors import pointer_to_words, unpacked, vector_of
from llm_numba.simulator.twins import twin

_COUNT = 4


@intrinsic
def load_quad(typing_context, array, index):
    """Load four elements in one access and widen them.

    Instruction: ``ld.global.v4.u32`` or ``ld.global.v2.u32``, by the size of an element
    (``ld.shared`` for a shared array), then the conversion of :func:`to_float`. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
    index : int
        Element to begin at, counted from the start of the array however many axes it has; its
        address must be a multiple of 16, or of 8 if the elements have 2 bytes.

    Returns
    -------
    tuple of 4
        float32, or int32 of int32.
    """
    wide, per_16 = vector_of("load_quad", array)
    count = 4 * _COUNT // per_16  # words
    result = types.UniTuple(wide, _COUNT)

    def codegen(context, builder, signature, args):
        pointer = pointer_to_words(context, builder, array, args[0], args[1])
        group = ir.VectorType(WORD, count).as_pointer(pointer.type.addrspace)
        words = builder.load(builder.bitcast(pointer, group), align=4 * count)
        words = [builder.extract_element(words, ir.Constant(WORD, k)) for k in range(count)]
        return context.make_tuple(builder, result, unpacked(builder, array.dtype, words))

    return result(array, types.int64), codegen


@twin(load_quad, loads=True)
def _(lanes, array, index):
    elements = lanes.load(array, index, count=_COUNT)
    return tuple(elements.T.astype("int64") if array.dtype.kind == "i" else widened(elements.T))
