"""From the element of an array to float32 and back.

Kernels store in one of three formats and compute in float32. A bfloat16 is the top half of a
float32, so it is widened by a shift; Numba has no such element that all GPUs share, and a kernel
sees uint16 in its place:

::

    float32    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
    bfloat16   s eeeeeeee mmmmmmm
    float16    s eeeee mmmmmmmmmm

GPUs since sm_80 round to bfloat16 in one instruction, two numbers at once; older ones take nine
integer instructions for each.

Sources: "PTX ISA", ``cvt``; IEEE 754-2019, section 4.3.1 (round to nearest, ties to even).
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.target import emit_since
from llm_numba.simulator.twins import twin

STORED_FLOATS = (types.float32, types.float16, types.uint16)
STORED = (*STORED_FLOATS, types.int32)

WORD = ir.IntType(32)
HALFWORD = ir.IntType(16)
FLOAT = ir.FloatType()
HALF = ir.HalfType()

_TO_BFLOAT16 = ir.InlineAsm(
    ir.FunctionType(HALFWORD, [FLOAT]), "cvt.rn.bf16.f32 $0, $1;", "=h,f", False
)
_TO_BFLOAT16_PAIR = ir.InlineAsm(
    ir.FunctionType(WORD, [FLOAT, FLOAT]), "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", False
)


@intrinsic
def to_float(typing_context, value):
    """Widen one stored element to float32; exact.

    Instruction: ``cvt.f32.f16`` for float16, ``shl.b32`` for bfloat16, none for float32.
    Capability: any.

    Parameters
    ----------
    value : float32, float16, or uint16 that holds a bfloat16

    Returns
    -------
    float32
    """
    if value not in STORED_FLOATS:
        raise TypingError(f"to_float takes float32, float16 or uint16 (bfloat16), not {value}.")

    def codegen(context, builder, signature, args):
        return emit_widened(builder, value, args[0])

    return types.float32(value), codegen


@twin(to_float)
def _(lanes, value):
    return widened(value)


@intrinsic
def widen(typing_context, value):
    """Turn one stored element into what it is accumulated in.

    Instruction: that of :func:`to_float`; none for int32. Capability: any.

    Parameters
    ----------
    value : float32, float16, uint16 that holds a bfloat16, or int32

    Returns
    -------
    float32, or int32 of int32
    """
    if value not in STORED:
        raise TypingError(f"widen takes one of {STORED}, not {value}.")
    wide = accumulator_of(value)

    def codegen(context, builder, signature, args):
        return emit_widened(builder, value, args[0])

    return wide(value), codegen


@twin(widen, typed=True)
def _(lanes, value, signature):
    return value if signature.return_type == types.int32 else widened(value)


@intrinsic
def from_float(typing_context, array, value):
    """Round float32 to the element type of an array: to nearest, ties to even.

    Infinities stay, what is too large becomes infinite, NaN stays NaN.

    Instruction: ``cvt.rn.f16.f32`` for float16; ``cvt.rn.bf16.f32`` for bfloat16, and integer
    additions below sm_80, which lack it. Capability: any.

    Parameters
    ----------
    array : array of float32, float16, or uint16 that holds bfloat16
        Only its type matters.
    value : float32
        Not float64: that would be a literal that somebody forgot to wrap.

    Returns
    -------
    An element of the array.
    """
    if not isinstance(array, types.Array) or array.dtype not in STORED_FLOATS:
        raise TypingError(f"from_float rounds for arrays of {STORED_FLOATS}, not for {array}.")
    if value != types.float32:
        raise TypingError(f"from_float takes a float32, not {value}; wrap it: float32(...).")

    def codegen(context, builder, signature, args):
        return emit_rounded(builder, array.dtype, args[1])

    return array.dtype(array, value), codegen


@twin(from_float)
def _(lanes, array, value):
    return rounded_to(array.dtype, value)


def accumulator_of(stored):
    """Return the type that elements of a stored type are computed in."""
    return types.int32 if stored == types.int32 else types.float32


def emit_widened(builder, stored, element):
    """Emit what turns an element of type `stored` into float32."""
    if stored == types.float16:
        return builder.fpext(builder.bitcast(element, HALF), FLOAT)
    if stored == types.uint16:
        word = builder.zext(element, WORD)
        return builder.bitcast(builder.shl(word, ir.Constant(WORD, 16)), FLOAT)
    return element


def emit_rounded(builder, stored, value):
    """Emit what rounds float32 to an element of type `stored`."""
    if stored == types.float16:
        return builder.bitcast(builder.fptrunc(value, HALF), HALFWORD)
    if stored == types.uint16:
        return emit_since(
            builder,
            80,
            newer=lambda: builder.call(_TO_BFLOAT16, [value], attrs=("readnone",)),
            older=lambda: builder.trunc(_top_half_rounded(builder, value), HALFWORD),
        )
    return value


def emit_rounded_pair(builder, stored, low, high):
    """Emit what rounds two float32 to elements of a 2-byte type, side by side in one word."""
    if stored == types.uint16:
        # The instruction takes the upper half first.
        return emit_since(
            builder,
            80,
            newer=lambda: builder.call(_TO_BFLOAT16_PAIR, [high, low], attrs=("readnone",)),
            older=lambda: _joined(
                builder, _top_half_rounded(builder, low), _top_half_rounded(builder, high)
            ),
        )
    halves = [builder.zext(emit_rounded(builder, stored, each), WORD) for each in (low, high)]
    return _joined(builder, *halves)


def _joined(builder, low, high):
    return builder.or_(low, builder.shl(high, ir.Constant(WORD, 16)))


def _top_half_rounded(builder, value):
    """Round float32 to bfloat16, in the low half of a word.

    Adding 0x7FFF carries into the half that is kept where the other is above 0x8000, its middle;
    adding the last bit kept as well carries where it is the middle and that bit is odd. A carry
    out of the mantissa raises the exponent, as it should, up to infinity. Only NaN needs care.
    """
    bits = builder.bitcast(value, WORD)
    top = builder.lshr(bits, ir.Constant(WORD, 16))
    odd = builder.and_(top, ir.Constant(WORD, 1))
    carried = builder.add(bits, builder.add(odd, ir.Constant(WORD, 0x7FFF)))
    rounded = builder.lshr(carried, ir.Constant(WORD, 16))
    # Compared as integers: under fastmath LLVM takes it that a float is never NaN.
    magnitude = builder.and_(bits, ir.Constant(WORD, 0x7FFFFFFF))
    is_nan = builder.icmp_unsigned(">", magnitude, ir.Constant(WORD, 0x7F800000))
    quiet = builder.or_(top, ir.Constant(WORD, 0x0040))
    return builder.select(is_nan, quiet, rounded)


def widened(element):
    """Turn stored elements into float32; what is an integer there, holds bfloat16."""
    if element.dtype.kind in "iu":
        return (element.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return element.astype(np.float32)


def rounded_to(dtype, value):
    """Round float32 to elements of a stored dtype; bfloat16 comes as integers."""
    if dtype != np.uint16:
        with np.errstate(over="ignore"):  # the instruction, too, gives infinity and no word
            return value.astype(dtype)
    bits = value.view(np.uint32).astype(np.int64)
    top = bits >> 16
    quiet = top | 0x0040
    carried = bits + 0x7FFF + (top & 1) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, quiet, carried)[()]
