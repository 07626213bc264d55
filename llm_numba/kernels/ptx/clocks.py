"""The GPU's clocks, read from within a kernel.

An SM counts its cycles, and the GPU counts nanoseconds. The one changes its pace with the clock
rate, the other does not; their ratio is the rate.

Source: "PTX ISA", special registers ``%clock64`` and ``%globaltimer``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.simulator.twins import twin

_LONG = ir.IntType(64)


def _reading(register):
    # Volatile, and said to touch memory: so it stays where it is between loads and stores.
    function = ir.FunctionType(_LONG, [])
    return ir.InlineAsm(function, f"mov.u64 $0, %{register};", "=l,~{memory}", True)


_CYCLES = _reading("clock64")
_NANOSECONDS = _reading("globaltimer")


@intrinsic
def cycles(typing_context):
    """Read the SM's count of cycles.

    A warp issues its instructions in order, and one whose operand is not there yet holds up those
    behind it. So what is read behind a *use* of a loaded value counts the waiting, too. Two SMs
    count from different beginnings. In the simulator, which has no time, it is 0.

    Instruction: ``mov.u64`` from ``%clock64``. Capability: any.

    Returns
    -------
    int64
    """

    def codegen(context, builder, signature, args):
        return builder.call(_CYCLES, [])

    return types.int64(), codegen


@intrinsic
def nanoseconds(typing_context):
    """Read the clock of the whole GPU; it moves on in steps of up to some microseconds.

    In the simulator, which has no time, it is 0.

    Instruction: ``mov.u64`` from ``%globaltimer``. Capability: any.

    Returns
    -------
    int64
    """

    def codegen(context, builder, signature, args):
        return builder.call(_NANOSECONDS, [])

    return types.int64(), codegen


@twin(cycles, nanoseconds)
def _(lanes):
    return np.int64(0)
