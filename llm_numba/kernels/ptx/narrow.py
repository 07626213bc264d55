"""Two float32 as two bytes: what a product of 8 bits is given.

::

    e4m3    s eeee mmm    up to 448, steps of 1/8 of a power of two; no infinity
    int8                  -128 to 127, steps of one

Source: "PTX ISA", ``cvt``; Micikevicius et al., "FP8 Formats for Deep Learning", 2022.
"""

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT, HALFWORD
from llm_numba.simulator.twins import twin

_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
_LARGEST_E4M3 = 448
_TWO = ir.FunctionType(HALFWORD, [FLOAT, FLOAT])
# The instruction takes the upper byte first.
_TO_E4M3 = ir.InlineAsm(_TWO, "cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;", "=h,f,f", False)
_TO_INT8 = ir.InlineAsm(
    _TWO,
    "{ .reg .s32 low, high; cvt.rni.s32.f32 low, $1; cvt.rni.s32.f32 high, $2; "
    "prmt.b32 low, low, high, 0x0040; cvt.u16.u32 $0, low; }",
    "=h,f,f",
    False,
)


@intrinsic
def to_e4m3_pair(typing_context, low, high):
    """Round two float32 to e4m3, side by side; what is too large becomes the largest.

    Instruction: ``cvt.rn.satfinite.e4m3x2.f32``. Capability: sm_89.

    Parameters
    ----------
    low, high : float32

    Returns
    -------
    uint16
        `low` in the lower byte.
    """
    return _pair("to_e4m3_pair", _TO_E4M3, low, high)


@twin(to_e4m3_pair)
def _(lanes, low, high):
    with np.errstate(invalid="ignore"):
        both = [
            np.clip(lanes.vector(each), -_LARGEST_E4M3, _LARGEST_E4M3).astype(_E4M3)
            for each in (low, high)
        ]
    return _joined(both)


@intrinsic
def to_int8_pair(typing_context, low, high):
    """Round two float32 to int8, side by side.

    Instruction: ``cvt.rni.s32.f32``, ``prmt.b32``. Capability: any.

    Parameters
    ----------
    low, high : float32
        From -128 to 127; NaN becomes 0.

    Returns
    -------
    uint16
        `low` in the lower byte.
    """
    return _pair("to_int8_pair", _TO_INT8, low, high)


@twin(to_int8_pair)
def _(lanes, low, high):
    both = [np.rint(np.nan_to_num(lanes.vector(each))).astype(np.int8) for each in (low, high)]
    return _joined(both)


def _joined(pair):
    return np.stack(pair, axis=-1).view(np.uint16)[:, 0]


def _pair(name, assembly, low, high):
    if (low, high) != (types.float32, types.float32):
        raise TypingError(f"{name} takes two float32, not {low} and {high}.")

    def codegen(context, builder, signature, args):
        return builder.call(assembly, args, attrs=("readnone",))

    return types.uint16(low, high), codegen
