"""Combining numbers: two of them, or a warp's integers in one instruction.

Source: "PTX ISA", ``add``, ``max``, ``redux.sync``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.simulator.twins import twin


@intrinsic
def add(typing_context, a, b):
    """Add two numbers and stay in their type; int32 wraps.

    Python's ``+`` on two int32 gives int64 in Numba: a loop that adds to an int32 would carry
    64 bits in two registers, and shuffle them one after the other.

    Instruction: ``add``. Capability: any.

    Parameters
    ----------
    a, b : float32 or int32
        Both of one type.

    Returns
    -------
    as the operands
    """
    _check_pair("add", a, b)

    def codegen(context, builder, signature, args):
        return builder.add(*args) if a == types.int32 else builder.fadd(*args)

    return a(a, b), codegen


@twin(add)
def _(lanes, a, b):
    total = np.add(a, b)
    return _wrapped(total) if total.dtype.kind == "i" else total


@intrinsic
def maximum(typing_context, a, b):
    """Take the larger of two numbers; NaN if either is NaN, as ``numpy.maximum`` does.

    Python's ``max`` becomes ``max.f32``, which prefers a number to NaN and so hides it.

    Instruction: ``setp`` and ``selp`` (``max.NaN.f32`` came with sm_80). Capability: any.

    Parameters
    ----------
    a, b : float32 or int32
        Both of one type.

    Returns
    -------
    as the operands
    """
    _check_pair("maximum", a, b)

    def codegen(context, builder, signature, args):
        left, right = args
        if a == types.int32:
            return builder.select(builder.icmp_signed(">", left, right), left, right)
        # "Unordered or greater" is true if either is NaN; then right may be the number.
        greater = builder.fcmp_unordered(">", left, right)
        right_is_nan = builder.fcmp_unordered("uno", right, right)
        return builder.select(right_is_nan, right, builder.select(greater, left, right))

    return a(a, b), codegen


@twin(maximum)
def _(lanes, a, b):
    return np.maximum(a, b)


@intrinsic
def redux_add_sync(typing_context, mask, value):
    """Add an integer over the lanes of a warp, modulo 2**32, in one instruction.

    Every lane named in the mask must execute it with the same mask, and gets the result.

    Instruction: ``redux.sync.add.s32``. Capability: sm_80.

    Parameters
    ----------
    mask : int
        32 bits, one a lane.
    value : int32

    Returns
    -------
    int32
    """
    return _redux("add", value)


@twin(redux_add_sync, collective=True)
def _(lanes, mask, value):
    return _wrapped(_over_members(lanes, mask, value, np.add, 0))


@intrinsic
def redux_min_sync(typing_context, mask, value):
    """Take the smallest of a warp's integers in one instruction; see :func:`redux_add_sync`.

    Instruction: ``redux.sync.min.s32``. Capability: sm_80.

    Parameters
    ----------
    mask : int
    value : int32

    Returns
    -------
    int32
    """
    return _redux("min", value)


@twin(redux_min_sync, collective=True)
def _(lanes, mask, value):
    return _over_members(lanes, mask, value, np.minimum, 2**31 - 1)


@intrinsic
def redux_max_sync(typing_context, mask, value):
    """Take the largest of a warp's integers in one instruction; see :func:`redux_add_sync`.

    Instruction: ``redux.sync.max.s32``. Capability: sm_80.

    Parameters
    ----------
    mask : int
    value : int32

    Returns
    -------
    int32
    """
    return _redux("max", value)


@twin(redux_max_sync, collective=True)
def _(lanes, mask, value):
    return _over_members(lanes, mask, value, np.maximum, -(2**31))


def _check_pair(name, a, b):
    if a != b or a not in (types.float32, types.int32):
        raise TypingError(f"{name} takes two float32 or two int32, not {a} and {b}.")


def _redux(operation, value):
    if value != types.int32:
        raise TypingError(f"redux.sync takes an int32, not {value}; wrap it: int32(...).")
    function = ir.FunctionType(WORD, [WORD, WORD])
    assembly = ir.InlineAsm(function, f"redux.sync.{operation}.s32 $0, $1, $2;", "=r,r,r", True)

    def codegen(context, builder, signature, args):
        mask, value = args
        # Convergent: LLVM must not move it to where fewer lanes of the warp meet it.
        return builder.call(assembly, [value, mask], attrs=("convergent",))

    return types.int32(types.uint32, types.int32), codegen


def _over_members(lanes, mask, value, operation, neutral):
    """Reduce over the lanes that each lane's own mask names: several groups may share a warp."""
    masks = lanes.by_warp(mask, 0)
    is_member = (masks[:, :, None] >> np.arange(32) & 1).astype(bool)
    values = np.broadcast_to(lanes.by_warp(value, neutral)[:, None, :], is_member.shape)
    return lanes.from_warps(operation.reduce(values, axis=2, where=is_member, initial=neutral))


def _wrapped(integers):
    """Keep the low 32 bits, in registers that hold 64."""
    return integers.astype(np.int32).astype(np.int64)
