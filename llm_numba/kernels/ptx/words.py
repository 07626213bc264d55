"""Numbers of 32 bits, where Numba would compute with 64."""

from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.simulator.twins import twin


@intrinsic
def quotient(typing_context, number, divisor):
    """Divide two numbers that are not negative, of 32 bits.

    ``//`` is of 64 bits, whatever it is given: a function of its own on a GPU, of a hundred
    instructions, for whose call a kernel must have registers left.

    Instruction: ``div.u32``. Capability: any.

    Parameters
    ----------
    number, divisor : int
        From 0, and from 1, to 2**31 - 1.

    Returns
    -------
    int32
    """

    def codegen(context, builder, signature, args):
        return builder.udiv(*args)

    return types.int32(types.int32, types.int32), codegen


@twin(quotient)
def _(lanes, number, divisor):
    return number // divisor
