"""What the special function units compute: approximations in one instruction.

Source: "PTX ISA", ``ex2``, ``rcp``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT
from llm_numba.simulator.twins import twin

_EX2 = ir.InlineAsm(ir.FunctionType(FLOAT, [FLOAT]), "ex2.approx.ftz.f32 $0, $1;", "=f,f", False)
_RCP = ir.InlineAsm(ir.FunctionType(FLOAT, [FLOAT]), "rcp.approx.ftz.f32 $0, $1;", "=f,f", False)
_SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


@intrinsic
def exp2(typing_context, x):
    """Raise 2 to a power, in one instruction.

    ``math.exp2`` scales its operand before the instruction and its result after it, so that
    results below 2**-126, the subnormal ones, come out right. This gives 0 for them. The relative
    error of the others is at most 2**-22.

    Instruction: ``ex2.approx.ftz.f32``. Capability: any.

    Parameters
    ----------
    x : float32

    Returns
    -------
    float32
        0 for negative infinity, infinity for infinity, NaN for NaN.
    """
    if x != types.float32:
        raise TypingError(f"exp2 takes a float32, not {x}; wrap it: float32(...).")

    def codegen(context, builder, signature, args):
        return builder.call(_EX2, args, attrs=("readnone",))

    return types.float32(x), codegen


@twin(exp2)
def _(lanes, x):
    with np.errstate(over="ignore", under="ignore"):
        power = np.exp2(x)
    return _flushed(power)


@intrinsic
def reciprocal(typing_context, x):
    """Divide 1 by a number, in one instruction.

    Python's ``/`` is rounded to nearest as IEEE 754 has it, in eight instructions and a branch.
    This is off by one unit in the last place at most, and takes subnormal numbers for 0.

    Instruction: ``rcp.approx.ftz.f32``. Capability: any.

    Parameters
    ----------
    x : float32

    Returns
    -------
    float32
        Infinity with the sign of x for 0, 0 with it for infinity, NaN for NaN.
    """
    if x != types.float32:
        raise TypingError(f"reciprocal takes a float32, not {x}; wrap it: float32(...).")

    def codegen(context, builder, signature, args):
        return builder.call(_RCP, args, attrs=("readnone",))

    return types.float32(x), codegen


@twin(reciprocal)
def _(lanes, x):
    with np.errstate(divide="ignore"):
        inverse = np.float32(1) / _flushed(x)
    return _flushed(inverse)


def _flushed(x):
    """Take subnormal numbers for 0, and keep the sign."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)[()]
