"""Sixteen bytes that pass through once, or untouched: hints to the caches, and raw words.

A weight that one token reads, or a row that a norm writes, is not wanted again before the caches
have long been refilled. Told so, they keep what is: no line of L1 is given to the one, and L2
throws out the other first.

Source: "PTX ISA", ``ld.global.nc``, ``st``, "Cache Eviction Priority Hints", "Cache Operators".
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD, widened
from llm_numba.kernels.ptx.vectors import (
    FOUR_WORDS,
    check_values,
    loaded,
    packed,
    pointer_to_words,
    rounded_rows,
    stored,
    unpacked,
    vector_of,
)
from llm_numba.simulator.twins import twin
from llm_numba.simulator.values import take

RAW = types.UniTuple(types.uint32, 4)

_GLOBAL = ir.VectorType(WORD, 4).as_pointer(1)
_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.LiteralStructType([WORD] * 4), [_GLOBAL]),
    "ld.global.nc.L1::no_allocate.v4.u32 {$0, $1, $2, $3}, [$4];",
    "=r,=r,=r,=r,l",
    False,
)
_LOAD_OR_ZEROS = ir.InlineAsm(
    ir.FunctionType(ir.LiteralStructType([WORD] * 4), [_GLOBAL, WORD]),
    "{ .reg .pred there; setp.ne.u32 there, $5, 0; "
    "mov.u32 $0, 0; mov.u32 $1, 0; mov.u32 $2, 0; mov.u32 $3, 0; "
    "@there ld.global.L1::no_allocate.v4.u32 {$0, $1, $2, $3}, [$4]; }",
    "=&r,=&r,=&r,=&r,l,r",
    True,
)
_STORE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_GLOBAL] + [WORD] * 4),
    "st.global.cs.v4.u32 [$0], {$1, $2, $3, $4};",
    "l,r,r,r,r,~{memory}",
    True,
)
_PREFETCH = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_GLOBAL]), "prefetch.global.L2 [$0];", "l", True
)


@intrinsic
def prefetch(typing_context, array, index):
    """Have the line of an element brought into L2, for whoever reads it later.

    Instruction: ``prefetch.global.L2``. Capability: any.

    Parameters
    ----------
    array : C-contiguous array
    index : int
        Counted from the start of the array however many axes it has; it must lie inside.
    """
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"prefetch takes a C-contiguous array, not {array}.")

    def codegen(context, builder, signature, args):
        data = context.make_array(array)(context, builder, args[0]).data
        place = builder.addrspacecast(builder.gep(data, [args[1]]), _GLOBAL)
        builder.call(_PREFETCH, [place])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@twin(prefetch)
def _(lanes, array, index):
    """Bring nothing: the simulator has no L2."""


@intrinsic
def load16_stream(typing_context, array, index):
    """Load 16 bytes that nobody reads again, and that nobody writes while the kernel runs.

    As :func:`load16`, past L1. The compiler may move it before any store or barrier, because
    nothing of this kernel can change what it reads.

    Instruction: ``ld.global.nc.L1::no_allocate.v4.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
        In global memory.
    index : int
        Element to begin at, as for :func:`load16`.

    Returns
    -------
    tuple
        4 float32 or int32 of 4-byte elements, 8 float32 of 2-byte elements.
    """
    wide, count = vector_of("load16_stream", array)
    result = types.UniTuple(wide, count)

    def codegen(context, builder, signature, args):
        pointer = _global_words(context, builder, array, args[0], args[1])
        words = builder.call(_LOAD, [pointer], attrs=("readnone",))
        words = [builder.extract_value(words, k) for k in range(4)]
        return context.make_tuple(builder, result, unpacked(builder, array.dtype, words))

    return result(array, types.int64), codegen


# Whoever does write there while the kernel runs has a race, which the twin reports as for any load.
twin(load16_stream, loads=True)(loaded)


@intrinsic
def store16_stream(typing_context, array, index, values):
    """Store 16 bytes that are not read again soon: the first to leave L2.

    As :func:`store16`.

    Instruction: ``st.global.cs.v4.u32``. Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
        In global memory.
    index : int
    values : tuple
    """
    check_values("store16_stream", array, values)

    def codegen(context, builder, signature, args):
        pointer = _global_words(context, builder, array, args[0], args[1])
        builder.call(_STORE, [pointer, *packed(builder, array.dtype, args[2])])
        return context.get_dummy_value()

    return types.void(array, types.int64, values), codegen


twin(store16_stream)(stored)


@intrinsic
def load_raw16(typing_context, array, index):
    """Load 16 bytes as they are: 4 registers that hold up to 8 numbers.

    :func:`widen_raw16` makes the numbers, :func:`store_raw16` stores the bytes again.

    Instruction: ``ld.global.v4.u32`` (``ld.shared.v4.u32``). Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
    index : int
        Element to begin at, as for :func:`load16`.

    Returns
    -------
    tuple of 4 uint32
    """
    vector_of("load_raw16", array)

    def codegen(context, builder, signature, args):
        words = builder.load(pointer_to_words(context, builder, array, *args), align=16)
        words = [builder.extract_element(words, ir.Constant(WORD, lane)) for lane in range(4)]
        return context.make_tuple(builder, RAW, words)

    return RAW(array, types.int64), codegen


@twin(load_raw16, loads=True)
def _(lanes, array, index):
    return _raw_words(lanes.load(array, index, count=16 // array.dtype.itemsize))


@intrinsic
def load_raw16_or_zeros(typing_context, array, index, present):
    """Load 16 bytes past L1, where the kernel says so; zeros where there is nothing to load.

    As :func:`load16_stream`, of raw words. But the compiler moves it neither past another such
    load nor past a wait: so many loads are under way as were written one after the other.

    Instruction: ``ld.global.L1::no_allocate.v4.u32`` with a predicate; ``.nc`` would let it be
    moved. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
        In global memory. What others write there must be ordered before, as by a barrier.
    index : int
        Element to begin at, as for :func:`load16`. May lie anywhere where `present` is false.
    present : bool

    Returns
    -------
    tuple of 4 uint32
    """
    vector_of("load_raw16_or_zeros", array)
    if present != types.boolean:
        raise TypingError(f"load_raw16_or_zeros takes a bool to tell, not {present}.")

    def codegen(context, builder, signature, args):
        pointer = _global_words(context, builder, array, args[0], args[1])
        words = builder.call(_LOAD_OR_ZEROS, [pointer, builder.zext(args[2], WORD)])
        words = [builder.extract_value(words, k) for k in range(4)]
        return context.make_tuple(builder, RAW, words)

    return RAW(array, types.int64, types.boolean), codegen


@twin(load_raw16_or_zeros, loads=True)
def _(lanes, array, index, present):
    elements = np.zeros((lanes.n, 16 // array.dtype.itemsize), array.dtype)
    there = np.flatnonzero(lanes.vector(present))
    if len(there):
        part, seen = lanes.subset(there, ()), take(array, there)
        elements[there] = part.load(seen, lanes.vector(index)[there], count=elements.shape[1])
    return _raw_words(elements)


@intrinsic
def store_raw16(typing_context, array, index, words):
    """Store 16 bytes as they are; the inverse of :func:`load_raw16`.

    Instruction: ``st.global.v4.u32`` (``st.shared.v4.u32``). Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
    index : int
    words : tuple of 4 uint32
    """
    vector_of("store_raw16", array)
    _check_raw("store_raw16", words)

    def codegen(context, builder, signature, args):
        group = ir.Constant(FOUR_WORDS, ir.Undefined)
        for lane in range(4):
            word = builder.extract_value(args[2], lane)
            group = builder.insert_element(group, word, ir.Constant(WORD, lane))
        pointer = pointer_to_words(context, builder, array, args[0], args[1])
        builder.store(group, pointer, align=16)
        return context.get_dummy_value()

    return types.void(array, types.int64, RAW), codegen


@twin(store_raw16)
def _(lanes, array, index, words):
    lanes.store(array, index, _raw_elements(lanes, words, array.dtype), count=16 // array.itemsize)


@intrinsic
def widen_raw16(typing_context, array, words):
    """Make the numbers of 16 bytes that :func:`load_raw16` loaded.

    Instruction: that of :func:`to_float`. Capability: any.

    Parameters
    ----------
    array : array
        Where the bytes come from; only its type matters.
    words : tuple of 4 uint32

    Returns
    -------
    tuple
        As :func:`load16` returns it.
    """
    wide, count = vector_of("widen_raw16", array)
    _check_raw("widen_raw16", words)
    result = types.UniTuple(wide, count)

    def codegen(context, builder, signature, args):
        words = [builder.extract_value(args[1], k) for k in range(4)]
        return context.make_tuple(builder, result, unpacked(builder, array.dtype, words))

    return result(array, RAW), codegen


@twin(widen_raw16)
def _(lanes, array, words):
    elements = _raw_elements(lanes, words, array.dtype).T
    return tuple(elements.astype(np.int64) if array.dtype == np.int32 else widened(elements))


@intrinsic
def round_raw16(typing_context, array, values):
    """Round numbers to 16 bytes, as :func:`store16` would store them.

    The inverse of :func:`widen_raw16`, for numbers that are stored and then used as stored.

    Instruction: that of :func:`from_float`. Capability: any.

    Parameters
    ----------
    array : array
        Where the bytes go; only its type matters.
    values : tuple
        As :func:`store16` takes it.

    Returns
    -------
    tuple of 4 uint32
    """
    check_values("round_raw16", array, values)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, RAW, packed(builder, array.dtype, args[1]))

    return RAW(array, values), codegen


@twin(round_raw16)
def _(lanes, array, values):
    return _raw_words(rounded_rows(lanes, array.dtype, values))


def _check_raw(name, words):
    if words != RAW:
        raise TypingError(f"{name} takes 4 uint32 as load_raw16 returns them, not {words}.")


def _raw_words(elements):
    """Bring elements, [n, elements] as in memory, into words of registers."""
    return tuple(np.ascontiguousarray(elements).view(np.uint32).T.astype(np.int64))


def _raw_elements(lanes, words, dtype):
    """Bring words of registers into the form of memory, [n, elements]."""
    table = np.stack([lanes.vector(word).astype(np.uint32) for word in words], axis=1)
    return table.view(dtype)


def _global_words(context, builder, array_type, array, index):
    """Address of four words in global memory, and in no other."""
    pointer = pointer_to_words(context, builder, array_type, array, index)
    return builder.addrspacecast(pointer, _GLOBAL)
