"""Formats of numbers that tensor cores multiply: one row each, for all instructions.

::

    what Numba calls it   in PTX   bits: sign, exponent, fraction    sums      numbers in 32 bytes
    float16               f16      1 5 10                            float32   16
    uint16 (bfloat16)     bf16     1 8 7                             float32   16
    float32               tf32     1 8 10 (of 23: the rest is cut)   float32    8
    (bytes, as e4m3)      e4m3     1 4 3, no infinity                float32   32
    (bytes, as e5m2)      e5m2     1 5 2                             float32   32
    int8                  s8       a whole number                    int32     32

An instruction takes 32 bytes of a row of A, and of a column of B, whatever the format. They are
eight words of 4 bytes. So a fragment looks alike for all: in a row of eight words, those of one
thread are t and t + 4, and a word has 1, 2 or 4 neighbours along K, the first in the lowest bits.

Numba has no arrays of 8-bit floats, and no launch passes them: a kernel takes bytes, and says by
:func:`e4m3` or :func:`e5m2` which numbers they are.

Sources: "PTX ISA", "Alternate Floating-Point Data Formats"; Micikevicius et al., "FP8 Formats for
Deep Learning", 2022.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numba.cuda import types
from numba.cuda._internal import cuda_fp8
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.simulator.twins import twin

_E4M3, _E5M2 = cuda_fp8._type_fp8_e4m3, cuda_fp8._type_fp8_e5m2


class Format(NamedTuple):
    """How numbers of a format are multiplied.

    Attributes
    ----------
    name : str
        In PTX.
    depth : int
        How many an instruction takes along K.
    sums : numba type
        What products are added in.
    """

    name: str
    depth: int
    sums: Any = types.float32

    @property
    def name_of_sums(self) -> str:
        """What products are added in, in PTX."""
        return "s32" if self.sums == types.int32 else "f32"

    @property
    def constraint(self) -> str:
        """What holds a sum, as inline assembly calls it."""
        return "r" if self.sums == types.int32 else "f"


_FORMATS = {
    types.float16: Format("f16", 16),
    types.uint16: Format("bf16", 16),
    types.float32: Format("tf32", 8),
    _E4M3: Format("e4m3", 32),
    _E5M2: Format("e5m2", 32),
    types.int8: Format("s8", 32, types.int32),
}


@intrinsic
def e4m3(typing_context, array):
    """Take bytes for floats with 4 bits of exponent and 3 of fraction.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of uint8

    Returns
    -------
    array
        The same memory; for what multiplies alone.
    """
    return _taken("e4m3", array, types.uint8, _E4M3)


@twin(e4m3)
def _(lanes, array):
    return array.view(np.dtype(ml_dtypes.float8_e4m3fn))


@intrinsic
def e5m2(typing_context, array):
    """Take bytes for floats with 5 bits of exponent and 2 of fraction.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of uint8

    Returns
    -------
    array
        The same memory; for what multiplies alone.
    """
    return _taken("e5m2", array, types.uint8, _E5M2)


@twin(e5m2)
def _(lanes, array):
    return array.view(np.dtype(ml_dtypes.float8_e5m2))


@intrinsic
def tf32(typing_context, array):
    """Take two neighbours of 2 bytes for the float32 that they are.

    So a kernel that counts in 2 bytes multiplies float32 without counting anew.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of uint16

    Returns
    -------
    array
        The same memory; for what multiplies alone.
    """
    return _taken("tf32", array, types.uint16, types.float32)


@twin(tf32)
def _(lanes, array):
    return array.view(np.dtype(np.float32))


def _taken(name, array, source, dtype):
    if not isinstance(array, types.Array) or (array.dtype, array.layout) != (source, "C"):
        raise TypingError(f"{name} takes a C-contiguous array of {source}, not {array}.")

    result = array.copy(dtype=dtype)

    def codegen(context, builder, signature, args):
        # The same record but for its pointer's type; lengths are nobody's business here.
        given = context.make_array(array)(context, builder, args[0])
        made = context.make_array(result)(context, builder)
        for field in ("meminfo", "parent", "nitems", "itemsize", "shape", "strides"):
            setattr(made, field, getattr(given, field))
        made.data = builder.bitcast(given.data, made.data.type)
        return made._getvalue()

    return result(array), codegen


def format_of(instruction: str, array: Any, *depths: int) -> Format:
    """Return the format of an array's numbers.

    Parameters
    ----------
    instruction : str
        For the message.
    array : numba type
    *depths : int
        Those that the instruction is for; all if none is given.

    Raises
    ------
    TypingError
        If the instruction does not multiply such numbers.
    """
    known = {kind: each for kind, each in _FORMATS.items() if not depths or each.depth in depths}
    dtype = getattr(array, "dtype", None)
    if dtype not in known:
        names = ", ".join(
            "uint16 (bfloat16)" if each == types.uint16 else str(each) for each in known
        )
        raise TypingError(f"{instruction} multiplies {names}, not {array}.")
    return known[dtype]
