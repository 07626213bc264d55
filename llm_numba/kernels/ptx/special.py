"""What the special function units compute: approximations in one instruction.

Source: "PTX ISA", ``ex2``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT
from llm_numba.simulator.twins import twin

_EX2 = ir.InlineAsm(ir.FunctionType(FLOAT, [FLOAT]), "ex2.approx.ftz.f32 $0, $1;", "=f,f", False)
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
    return np.where(power < _SMALLEST_NORMAL, np.float32(0), power)[()]
