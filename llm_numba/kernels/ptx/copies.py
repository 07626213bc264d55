"""Copies from global into shared memory that go on while the thread does something else.

An ordinary load puts what it reads into registers, and the thread stores it from there. These
copies pass the registers by, and nobody waits for them until somebody asks:

::

    cp_async16(tile, ...)  cp_async_commit()      group 0 is under way
    cp_async16(next, ...)  cp_async_commit()      groups 0 and 1 are
    cp_async_wait(1)                              at most 1 is: group 0 has arrived
    cuda.syncthreads()                            and now all threads see it

The wait is for the thread's own copies; what other threads copied needs the barrier after it. GPUs
before sm_80 load and store at once, and have nothing to wait for.

In the simulator the bytes arrive at the wait and no sooner. Until then the place counts as not
written, whatever it held.

Source: "PTX ISA", ``cp.async``, ``cp.async.commit_group``, ``cp.async.wait_group``.
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import STORED, WORD
from llm_numba.kernels.ptx.target import emit_since
from llm_numba.kernels.ptx.vectors import FOUR_WORDS, pointer_to_words
from llm_numba.simulator.twins import twin

_SHARED, _GLOBAL = FOUR_WORDS.as_pointer(3), FOUR_WORDS.as_pointer(1)


def _instruction(assembly, constraints, *operands):
    kind = ir.FunctionType(ir.VoidType(), operands)
    return ir.InlineAsm(kind, assembly, f"{constraints}~{{memory}}", True)


_COPY = _instruction("cp.async.cg.shared.global [$0], [$1], 16;", "r,l,", WORD, _GLOBAL)
_COPY_OR_ZEROS = _instruction(
    "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,", WORD, _GLOBAL, WORD
)
_COMMIT = _instruction("cp.async.commit_group;", "")


@intrinsic
def cp_async16(typing_context, shared, shared_index, array, index):
    """Begin to copy 16 bytes from global into shared memory, past L1 and the registers.

    Instruction: ``cp.async.cg.shared.global``. Capability: sm_80; below it, a load and a store.

    Parameters
    ----------
    shared : C-contiguous shared array
    shared_index : int
        Element where the bytes go, counted from the start of the array however many axes it has;
        its address must be a multiple of 16.
    array : C-contiguous global array of the same dtype
    index : int
        Element where they come from, likewise.
    """
    _check_arrays("cp_async16", shared, array)

    def codegen(context, builder, signature, args):
        target = pointer_to_words(context, builder, shared, args[0], args[1])
        source = pointer_to_words(context, builder, array, args[2], args[3])

        def copied():
            builder.call(_COPY, [_shared_address(builder, target), _global(builder, source)])
            return ir.Constant(WORD, 0)

        def loaded_and_stored():
            builder.store(builder.load(source, align=16), target, align=16)
            return ir.Constant(WORD, 0)

        emit_since(builder, 80, copied, loaded_and_stored)
        return context.get_dummy_value()

    return types.void(shared, types.int64, array, types.int64), codegen


@twin(cp_async16)
def _(lanes, shared, shared_index, array, index):
    count = 16 // array.dtype.itemsize
    elements = lanes.load(array, index, count=count)
    lanes.machine.copies.begin(lanes, shared, shared_index, elements)


@intrinsic
def cp_async16_or_zeros(typing_context, shared, shared_index, array, index, present):
    """Begin to copy 16 bytes, or to write zeros where there is nothing to copy.

    As :func:`cp_async16`; for the edge of a matrix that a tile reaches beyond.

    Instruction: ``cp.async.cg.shared.global`` with 0 or 16 bytes to read. Capability: sm_80; below
    it, a load and a store.

    Parameters
    ----------
    shared : C-contiguous shared array
    shared_index : int
    array : C-contiguous global array of the same dtype
    index : int
        May lie anywhere where `present` is false: nothing is read.
    present : bool
    """
    _check_arrays("cp_async16_or_zeros", shared, array)
    if present != types.boolean:
        raise TypingError(f"cp_async16_or_zeros takes a bool to tell, not {present}.")

    def codegen(context, builder, signature, args):
        target = pointer_to_words(context, builder, shared, args[0], args[1])
        is_there = args[4]
        inside = builder.select(is_there, args[3], ir.Constant(args[3].type, 0))
        source = pointer_to_words(context, builder, array, args[2], inside)

        def copied():
            size = builder.select(is_there, ir.Constant(WORD, 16), ir.Constant(WORD, 0))
            address = _shared_address(builder, target)
            builder.call(_COPY_OR_ZEROS, [address, _global(builder, source), size])
            return ir.Constant(WORD, 0)

        def loaded_and_stored():
            with builder.if_else(is_there) as (then, otherwise):
                with then:
                    builder.store(builder.load(source, align=16), target, align=16)
                with otherwise:
                    builder.store(ir.Constant(FOUR_WORDS, [0] * 4), target, align=16)
            return ir.Constant(WORD, 0)

        emit_since(builder, 80, copied, loaded_and_stored)
        return context.get_dummy_value()

    return types.void(shared, types.int64, array, types.int64, types.boolean), codegen


@twin(cp_async16_or_zeros)
def _(lanes, shared, shared_index, array, index, present):
    elements = np.zeros((lanes.n, 16 // array.dtype.itemsize), array.dtype)
    there = np.flatnonzero(lanes.vector(present))
    if len(there):
        part = lanes.subset(there, ())
        elements[there] = part.load(array, lanes.vector(index)[there], count=elements.shape[1])
    lanes.machine.copies.begin(lanes, shared, shared_index, elements)


@intrinsic
def cp_async_commit(typing_context):
    """Make a group of the thread's copies since the last one, to wait for together.

    Instruction: ``cp.async.commit_group``. Capability: sm_80; below it, none.
    """

    def codegen(context, builder, signature, args):
        _emit_since_80(builder, _COMMIT)
        return context.get_dummy_value()

    return types.void(), codegen


@twin(cp_async_commit)
def _(lanes):
    lanes.machine.copies.commit(lanes)


@intrinsic
def cp_async_wait(typing_context, groups):
    """Wait until at most so many of the thread's last groups are under way.

    Instruction: ``cp.async.wait_group``. Capability: sm_80; below it, none.

    Parameters
    ----------
    groups : int
        A constant; 0 waits for all.
    """
    if not isinstance(groups, types.IntegerLiteral):
        raise TypingError(f"cp_async_wait takes a constant, not {groups}.")
    wait = _instruction(f"cp.async.wait_group {groups.literal_value};", "")

    def codegen(context, builder, signature, args):
        _emit_since_80(builder, wait)
        return context.get_dummy_value()

    return types.void(groups), codegen


@twin(cp_async_wait)
def _(lanes, groups):
    lanes.machine.copies.wait(lanes, int(groups))


def _emit_since_80(builder, assembly):
    def newer():
        builder.call(assembly, [])
        return ir.Constant(WORD, 0)

    emit_since(builder, 80, newer, lambda: ir.Constant(WORD, 0))


def _check_arrays(name, shared, array):
    both = (shared, array)
    if not all(isinstance(each, types.Array) and each.layout == "C" for each in both):
        raise TypingError(f"{name} copies between C-contiguous arrays, not {array} to {shared}.")
    if shared.dtype != array.dtype or array.dtype not in STORED:
        raise TypingError(f"{name} copies between two arrays of one of {STORED}, not these.")


def _shared_address(builder, pointer):
    """Return an address in shared memory as the 32 bits that the instruction takes."""
    return builder.ptrtoint(builder.addrspacecast(pointer, _SHARED), WORD)


def _global(builder, pointer):
    return builder.addrspacecast(pointer, _GLOBAL)
