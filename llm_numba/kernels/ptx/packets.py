"""Sixteen bytes made anew, for :func:`~llm_numba.kernels.ptx.store16`."""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT
from llm_numba.simulator.twins import twin


@intrinsic
def zeros16(typing_context, array):
    """Return a tuple of zeros as :func:`store16` takes it for an array of floats.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : array of float32, float16 or uint16 (bfloat16)
        Only its type matters.

    Returns
    -------
    tuple of float32
        4 for 4-byte elements, 8 for 2-byte elements.
    """
    result = types.UniTuple(types.float32, 128 // array.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, result, [ir.Constant(FLOAT, 0.0)] * result.count)

    return result(array), codegen


@twin(zeros16)
def _(lanes, array):
    return (np.float32(0),) * (16 // array.dtype.itemsize)
