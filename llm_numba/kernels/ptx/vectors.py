"""Sixteen bytes at once: the widest load and store of one thread.

A warp that copies float32 by single elements issues four times as many instructions as one that
takes four at a time, for the same 32-byte sectors.

Source: "PTX ISA", ``ld``, ``st``, "Vectors".
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import (
    FLOAT,
    HALFWORD,
    STORED,
    WORD,
    accumulator_of,
    emit_rounded_pair,
    emit_widened,
    rounded_to,
    widened,
)
from llm_numba.simulator.twins import twin

# Elements of each storage format in 16 bytes, for launchers; kernels ask items16.
VECTOR = {"float32": 4, "int32": 4, "float16": 8, "bfloat16": 8}

FOUR_WORDS = ir.VectorType(WORD, 4)


def is_aligned16(array):
    """Tell, on the host, whether :func:`load16` and :func:`store16` may be used on an array.

    Parameters
    ----------
    array : cupy.ndarray or ndarray
        Fresh ones are aligned; views may begin anywhere.

    Returns
    -------
    bool
        Whether its first byte has an address that is a multiple of 16.
    """
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return address % 16 == 0


@intrinsic
def items16(typing_context, array):
    """Return how many elements of an array fit in 16 bytes, known when the kernel is compiled.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : array of float32, float16, uint16 (bfloat16) or int32
        Only its type matters.

    Returns
    -------
    int
        4 or 8.
    """
    _, count = vector_of("items16", array)

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(types.int64), count)

    return types.int64(array), codegen


@twin(items16)
def _(lanes, array):
    return np.int64(16 // array.dtype.itemsize)


@intrinsic
def load16(typing_context, array, index):
    """Load 16 bytes in one access and widen them.

    Instruction: ``ld.global.v4.u32`` (``ld.shared.v4.u32`` for a shared array), then the
    conversion of :func:`to_float`. Capability: any. A warp's 32 accesses make one request of
    512 bytes, 16 sectors.

    ::

        byte        0     2     4     6     8     10    12    14
        word        |     0     |     1     |     2     |     3     |
        float32     |    v[0]   |    v[1]   |    v[2]   |    v[3]   |
        2 bytes     | v[0]| v[1]| v[2]| v[3]| v[4]| v[5]| v[6]| v[7]|

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
    index : int
        Element to begin at, counted from the start of the array however many axes it has; its
        address must be a multiple of 16.

    Returns
    -------
    tuple
        4 float32 or int32 of 4-byte elements, 8 float32 of 2-byte elements.
    """
    wide, count = vector_of("load16", array)
    result = types.UniTuple(wide, count)

    def codegen(context, builder, signature, args):
        pointer = pointer_to_words(context, builder, array, args[0], args[1])
        words = builder.load(pointer, align=16)
        words = [builder.extract_element(words, ir.Constant(WORD, lane)) for lane in range(4)]
        return context.make_tuple(builder, result, unpacked(builder, array.dtype, words))

    return result(array, types.int64), codegen


@twin(load16, loads=True)
def loaded(lanes, array, index):
    """Load 16 bytes for each thread and widen them."""
    elements = lanes.load(array, index, count=16 // array.dtype.itemsize)
    if array.dtype == np.int32:
        return tuple(elements.T.astype(np.int64))
    return tuple(widened(elements.T))


@intrinsic
def store16(typing_context, array, index, values):
    """Round values to the element type of an array and store 16 bytes in one access.

    The inverse of :func:`load16`, with the rounding of :func:`from_float`.

    Instruction: ``st.global.v4.u32`` (``st.shared.v4.u32``). Capability: any.

    Parameters
    ----------
    array : C-contiguous array of float32, float16, uint16 (bfloat16) or int32
    index : int
        Element to begin at, as for :func:`load16`.
    values : tuple
        As :func:`load16` returns it for such an array; :func:`with_item` makes one from another.
    """
    check_values("store16", array, values)

    def codegen(context, builder, signature, args):
        words = ir.Constant(FOUR_WORDS, ir.Undefined)
        for lane, word in enumerate(packed(builder, array.dtype, args[2])):
            words = builder.insert_element(words, word, ir.Constant(WORD, lane))
        pointer = pointer_to_words(context, builder, array, args[0], args[1])
        builder.store(words, pointer, align=16)
        return context.get_dummy_value()

    return types.void(array, types.int64, values), codegen


@twin(store16)
def stored(lanes, array, index, values):
    """Round values and store 16 bytes for each thread."""
    lanes.store(array, index, rounded_rows(lanes, array.dtype, values), count=len(values))


def rounded_rows(lanes, dtype, values):
    """Round a tuple of registers to elements, [n, elements] as in memory."""
    elements = np.empty((lanes.n, len(values)), dtype)
    for k, value in enumerate(values):
        elements[:, k] = value if dtype == np.int32 else rounded_to(dtype, value)
    return elements


@intrinsic
def zeros16(typing_context, array):
    """Return a tuple of zeros as :func:`store16` takes it for an array of floats.

    Instruction: none. Capability: any.

    Parameters
    ----------
    array : array of float32, float16 or uint16 (bfloat16)
        Only its type matters.

    Returns
    -------
    tuple of float32
        4 for 4-byte elements, 8 for 2-byte elements.
    """
    wide, count = vector_of("zeros16", array)
    if wide != types.float32:
        raise TypingError(f"zeros16 makes floats, and {array} holds integers.")
    result = types.UniTuple(wide, count)

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, result, [ir.Constant(FLOAT, 0.0)] * count)

    return result(array), codegen


@twin(zeros16)
def _(lanes, array):
    return (np.float32(0),) * (16 // array.dtype.itemsize)


@intrinsic
def with_item(typing_context, values, index, value):
    """Return a tuple with one item replaced, for tuples that are computed item by item.

    Instruction: none, in a loop with constant bounds: it is unrolled, and every item has a
    register of its own. Capability: any.

    Parameters
    ----------
    values : tuple of float32 or int32
    index : int
        Below the tuple's length; beyond it, nothing is replaced.
    value : as the items

    Returns
    -------
    tuple
    """
    if not isinstance(values, types.UniTuple) or value != values.dtype:
        raise TypingError(f"with_item cannot put {value} into {values}.")

    def codegen(context, builder, signature, args):
        result, index, value = args
        for k in range(values.count):
            here = builder.icmp_signed("==", index, ir.Constant(index.type, k))
            item = builder.select(here, value, builder.extract_value(result, k))
            result = builder.insert_value(result, item, k)
        return result

    return values(values, types.int64, value), codegen


@twin(with_item)
def _(lanes, values, index, value):
    if np.ndim(index) == 0:
        return tuple(value if k == index else item for k, item in enumerate(values))
    return tuple(np.where(index == k, value, item) for k, item in enumerate(values))


def vector_of(name, array):
    """Return the type of a widened element and the number of elements in 16 bytes."""
    if not isinstance(array, types.Array) or array.dtype not in STORED or array.layout != "C":
        raise TypingError(f"{name} takes a C-contiguous array of {STORED}, not {array}.")
    return accumulator_of(array.dtype), 128 // array.dtype.bitwidth


def check_values(name, array, values):
    """Raise unless values are a tuple as :func:`load16` returns it for an array."""
    wide, count = vector_of(name, array)
    if values != types.UniTuple(wide, count):
        raise TypingError(f"{name} into {array} takes {count} values of {wide}, not {values}.")


def pointer_to_words(context, builder, array_type, array, index):
    """Address of four words that begin at an element.

    The pointer keeps the address space that it came with, so that LLVM can tell global from
    shared memory, and move the access among others as it may.
    """
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), FOUR_WORDS.as_pointer())


def unpacked(builder, stored, words):
    """Split four words into their widened elements, the lower half of each first."""
    return [value for word in words for value in _unpack(builder, stored, word)]


def packed(builder, stored, values):
    """Join a tuple of elements, rounded, to four words: the inverse of :func:`unpacked`."""
    count = values.type.count
    items = [builder.extract_value(values, k) for k in range(count)]
    shares = [items[k * count // 4 : (k + 1) * count // 4] for k in range(4)]
    return [_pack(builder, stored, share) for share in shares]


def _unpack(builder, stored, word):
    """Split a word into its widened elements, the lower half first."""
    if stored == types.int32:
        return [word]
    if stored == types.float32:
        return [builder.bitcast(word, FLOAT)]
    low = builder.trunc(word, HALFWORD)
    high = builder.trunc(builder.lshr(word, ir.Constant(WORD, 16)), HALFWORD)
    return [emit_widened(builder, stored, low), emit_widened(builder, stored, high)]


def _pack(builder, stored, values):
    """Join elements, rounded, to a word: the inverse of :func:`_unpack`."""
    if stored == types.int32:
        return values[0]
    if stored == types.float32:
        return builder.bitcast(values[0], WORD)
    return emit_rounded_pair(builder, stored, *values)
