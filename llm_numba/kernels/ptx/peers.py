"""Arrays in the memory of other GPUs.

GPUs of one host can map each other's memory. What another GPU has then stands at an address, like
all memory, and loads and stores go there over the link. The addresses are known when the program
runs; a kernel finds them in a table.

Source: "CUDA C++ Programming Guide", "Unified Virtual Address Space", "Interprocess Communication".
"""

import numpy as np
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.simulator.errors import OutOfBoundsError
from llm_numba.simulator.memory import View
from llm_numba.simulator.twins import twin


@intrinsic
def at_address(typing_context, array, address):
    """Return an array of the type and shape of another that begins at an address.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : C-contiguous global array
        Only its type and shape matter. In the simulator, where all memory is the host's, the
        address must lie in the same allocation.
    address : int64
        In global memory, of this GPU or of one that is mapped.

    Returns
    -------
    array
    """
    if not isinstance(array, types.Array) or array.layout != "C" or address != types.int64:
        raise TypingError(
            f"at_address takes a C-contiguous array and int64, not {array} and {address}."
        )

    def codegen(context, builder, signature, args):
        there = context.make_array(array)(context, builder, args[0])
        # A generic pointer, though loads for sm_100 then ask which memory it is: one of global
        # memory, cast to generic, lets NVVM 13.0 compile for ever.
        there.data = builder.inttoptr(args[1], there.data.type)
        return there._getvalue()

    return array(array, types.int64), codegen


@twin(at_address)
def _(lanes, array, address):
    buffer = array.buffer
    offset = address - np.int64(buffer.low)
    outside = lanes.vector((offset < 0) | (offset + array.nbytes > buffer.stride))
    if outside.any():
        raise lanes.machine.fault(
            OutOfBoundsError,
            lanes,
            outside,
            f"takes an address for an array like {array.name}, where no such array is",
            "Give the table of addresses that belongs to the array.",
        )
    return View(buffer, offset, array.shape, array.strides, array.dtype, array.name)
