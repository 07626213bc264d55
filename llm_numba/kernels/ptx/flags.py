"""Flags: words in global memory with which blocks hand work to each other.

One thread writes its results and then *releases* a flag; another *acquires* the flag, and if it
finds the new value, it sees the results. Without the two words neither holds: a plain store may
be seen before those that stand above it, and a plain load may be moved, or never be repeated.

::

    out[i] = value                         while ptx.load_acquire(flag, 0) == 0:
    ptx.store_release(flag, 0, 1)              pass
                                           use(out[i])

A flag is for the blocks of one GPU, unless it is one for the whole *system*: then threads of other
GPUs may read and write it, too. That costs more, for what was written before must have arrived
where all GPUs see it.

Only the thread itself is ordered by them. A block that hands over what all its threads wrote, has
a barrier first and lets one thread release; one that takes it, lets one thread acquire and has a
barrier then. ``cuda.threadfence()`` around an atomic operation orders likewise, and is stronger.

Source: "PTX ISA", "Memory Consistency Model", "Release and Acquire Patterns".
"""

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import WORD
from llm_numba.simulator.atomics import Update
from llm_numba.simulator.twins import twin
from llm_numba.simulator.twins_cuda import fence

_POINTER = WORD.as_pointer(1)
_ACQUIRE = ir.InlineAsm(
    ir.FunctionType(WORD, [_POINTER]), "ld.acquire.gpu.global.u32 $0, [$1];", "=r,l,~{memory}", True
)
_ACQUIRE_SYSTEM = ir.InlineAsm(
    ir.FunctionType(WORD, [_POINTER]), "ld.acquire.sys.global.u32 $0, [$1];", "=r,l,~{memory}", True
)
_RELEASE_SYSTEM = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_POINTER, WORD]),
    "st.release.sys.global.u32 [$0], $1;",
    "l,r,~{memory}",
    True,
)
_RELEASE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_POINTER, WORD]),
    "st.release.gpu.global.u32 [$0], $1;",
    "l,r,~{memory}",
    True,
)
_ADD = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_POINTER, WORD]),
    "red.release.gpu.global.add.s32 [$0], $1;",
    "l,r,~{memory}",
    True,
)
_COUNT = ir.InlineAsm(
    ir.FunctionType(WORD, [_POINTER, WORD]),
    "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;",
    "=r,l,r,~{memory}",
    True,
)
_SUM = Update.of_ufunc(np.add)


@intrinsic
def load_acquire(typing_context, array, index):
    """Load a flag, and see what was written before the store that released it.

    Instruction: ``ld.acquire.gpu.global.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
    index : int
        Counted from the start of the array however many axes it has.

    Returns
    -------
    int32
    """
    _check_flag("load_acquire", array)

    def codegen(context, builder, signature, args):
        return builder.call(_ACQUIRE, [_address(context, builder, array, *args)])

    return types.int32(array, types.int64), codegen


@twin(load_acquire, loads=True)
def _(lanes, array, index):
    return lanes.load(array.ravel(), index, kind="acquire")


@intrinsic
def load_acquire_system(typing_context, array, index):
    """Load a flag that another GPU may have released; else as :func:`load_acquire`.

    Instruction: ``ld.acquire.sys.global.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
    index : int

    Returns
    -------
    int32
    """
    _check_flag("load_acquire_system", array)

    def codegen(context, builder, signature, args):
        return builder.call(_ACQUIRE_SYSTEM, [_address(context, builder, array, *args)])

    return types.int32(array, types.int64), codegen


@twin(load_acquire_system, loads=True)
def _(lanes, array, index):
    return lanes.load(array.ravel(), index, kind="acquire.sys")


@intrinsic
def store_release(typing_context, array, index, value):
    """Store a flag, behind all that this thread wrote before or knows to be written.

    Instruction: ``st.release.gpu.global.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
    index : int
        As for :func:`load_acquire`.
    value : int32
    """
    _check_flag("store_release", array)

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, array, args[0], args[1])
        builder.call(_RELEASE, [pointer, args[2]])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int32), codegen


@twin(store_release)
def _(lanes, array, index, value):
    lanes.store(array.ravel(), index, np.asarray(value).astype(np.int64)[()], kind="release")


@intrinsic
def store_release_system(typing_context, array, index, value):
    """Store a flag that another GPU may acquire; else as :func:`store_release`.

    Instruction: ``st.release.sys.global.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
        In this GPU's memory or in that of another.
    index : int
    value : int32
    """
    _check_flag("store_release_system", array)

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, array, args[0], args[1])
        builder.call(_RELEASE_SYSTEM, [pointer, args[2]])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int32), codegen


@twin(store_release_system)
def _(lanes, array, index, value):
    value = np.asarray(value).astype(np.int64)[()]
    lanes.store(array.ravel(), index, value, kind="release.sys")


@intrinsic
def add_release(typing_context, array, index, value):
    """Add to a counter, behind all that this thread wrote before or knows to be written.

    Where many wait for many: each adds one, and who finds the number of all of them sees the
    results of all. An atomic addition behind a ``cuda.threadfence()`` does the same, and waits for
    the fence.

    Instruction: ``red.release.gpu.global.add.s32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
    index : int
        As for :func:`load_acquire`.
    value : int32
    """
    _check_flag("add_release", array)

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, array, args[0], args[1])
        builder.call(_ADD, [pointer, args[2]])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int32), codegen


@twin(add_release)
def _(lanes, array, index, value):
    fence(lanes)
    lanes.atomic(array.ravel(), index, _SUM, np.asarray(value).astype(np.int32)[()])


@intrinsic
def add_acq_rel(typing_context, array, index, value):
    """Add to a counter, and return what it was: a release and an acquire in one.

    Of blocks that count themselves here, the one that finds all others counted sees what each of
    them wrote before. ``cuda.atomic.add`` between two ``cuda.threadfence()`` does the same; their
    fences order all memory, for all threads of the GPU, in one sequence, which takes longer.

    Instruction: ``atom.acq_rel.gpu.global.add.u32``. Capability: sm_70.

    Parameters
    ----------
    array : C-contiguous global array of int32
    index : int
        As for :func:`load_acquire`.
    value : int32

    Returns
    -------
    int32
    """
    _check_flag("add_acq_rel", array)

    def codegen(context, builder, signature, args):
        pointer = _address(context, builder, array, args[0], args[1])
        return builder.call(_COUNT, [pointer, args[2]])

    return types.int32(array, types.int64, types.int32), codegen


@twin(add_acq_rel, loads=True)
def _(lanes, array, index, value):
    fence(lanes)
    found = lanes.atomic(array.ravel(), index, _SUM, np.asarray(value).astype(np.int32)[()])
    fence(lanes)
    return found


def _check_flag(name, array):
    if not isinstance(array, types.Array) or array.dtype != types.int32 or array.layout != "C":
        raise TypingError(f"{name} takes a C-contiguous array of int32, not {array}.")


def _address(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.addrspacecast(builder.gep(data, [index]), _POINTER)
