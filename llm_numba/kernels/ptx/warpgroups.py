r"""Tensor cores of a warpgroup: four warps multiply tiles that lie in shared memory.

``mma.sync`` wants its operands in registers, and bringing them there costs more instructions than
multiplying. ``wgmma`` reads both from shared memory. Four neighbouring warps, the first of them a
multiple of four, issue it together: D [64, N] += A [64, 16] B [N, 16]^T, with N up to 256. It goes
on while they do something else.

*Where an operand lies* says a descriptor of 64 bits, sizes in units of 16 bytes:

::

     63  62 61       52 51 49 48  46 45        32 31 30 29        16 15 14 13         0
    +------+-----------+-----+------+------------+-----+------------+-----+------------+
    |swizzle|    0     |  0  |  0   | stride, 64 |  0  | leading, 1 |  0  |  address   |
    +------+-----------+-----+------+------------+-----+------------+-----+------------+
      1: 128 bytes                   from 8 rows         not used by       of the first
                                     to the next 8       this swizzle      element

A tile has rows of 64 numbers, 128 bytes, in the swizzled order of
:mod:`~llm_numba.kernels.ptx.bulk`: eight rows are 1024 bytes, hence 64. An instruction
takes 16 numbers of each row, 32 bytes; the next 16 begin 32 bytes further on, so 2 is added to the
descriptor. The hardware swizzles the address that comes out, so this is right within a row.

*The accumulator* D stays in registers. Warp w of the group has rows 16 w to 16 w + 15, and of
those, as with ``mma.sync``, lane 4 g + t has two of each eight columns:

::

    column        8 j + 2 t     8 j + 2 t + 1
    row g         d[4 j]        d[4 j + 1]
    row g + 8     d[4 j + 2]    d[4 j + 3]

*When*. :func:`wgmma_fence` before the first of a batch: registers that were written before are
ready. :func:`wgmma_commit` behind the last: the batch is a group. :func:`wgmma_wait` until at most
so many groups are under way. Before that, nobody may touch the accumulator, nor write into A or B.

In the simulator operands are read, multiplied and added at the wait and no sooner, and until then
the accumulator counts as not written. It wants a fence before each batch; the hardware could do
without one where nothing but ``wgmma`` has touched the registers since the last.

Source: "PTX ISA", "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
"""

import numpy as np
from llvmlite import ir
from numba import cuda, uint64
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.barriers import emit_shared_address
from llm_numba.kernels.ptx.elements import FLOAT, WORD
from llm_numba.simulator.twins import twin

_NAMES = {types.float16: "f16", types.uint16: "bf16"}
_LONG = ir.IntType(64)


def _alone(assembly):
    return ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), assembly, "~{memory}", True)


_FENCE = _alone("wgmma.fence.sync.aligned;")
_COMMIT = _alone("wgmma.commit_group.sync.aligned;")


@intrinsic
def shared_address(typing_context, shared, index):
    """Return where an element lies in the shared memory of its block, in bytes.

    Instruction: none but a conversion of the address. Capability: any.

    Parameters
    ----------
    shared : C-contiguous shared array
    index : int

    Returns
    -------
    uint32
    """

    def codegen(context, builder, signature, args):
        return emit_shared_address(context, builder, shared, *args)

    return types.uint32(shared, types.int64), codegen


@twin(shared_address)
def _(lanes, shared, index):
    return np.asarray(shared.offset + index * shared.itemsize).astype(np.int64)[()]


@cuda.jit(device=True)
def matrix_descriptor(shared, index):
    """Describe a tile to :func:`wgmma`: rows of 128 bytes, swizzled, from an element on.

    Parameters
    ----------
    shared : C-contiguous shared array of float16 or uint16 (bfloat16)
    index : int
        Its address is a multiple of 1024.

    Returns
    -------
    uint64
    """
    address = uint64(shared_address(shared, index))
    layout = uint64(1) << uint64(62) | uint64(64) << uint64(32) | uint64(1) << uint64(16)
    return (address & uint64(0x3FFFF)) >> uint64(4) | layout


@intrinsic
def wgmma(typing_context, shared, accumulator, a, b, columns, accumulate):
    """Begin to multiply 64 rows by some columns along 16 numbers: the warpgroup's tensor cores.

    All 128 threads of a warpgroup execute it together.

    Instruction: ``wgmma.mma_async.sync.aligned.m64n..k16.f32.bf16.bf16`` or its like with ``f16``.
    Capability: sm_90a, and no other.

    Parameters
    ----------
    shared : shared array of float16 or uint16 (bfloat16)
        Where A and B lie; only its type matters.
    accumulator : local array of float32 [columns / 2]
    a, b : uint64
        Descriptors, as of :func:`matrix_descriptor`; both operands lie along K.
    columns : int
        A constant: a multiple of 8, up to 256.
    accumulate : bool
        Whether to add to what the accumulator holds; else that does not matter.
    """
    name = _NAMES.get(getattr(shared, "dtype", None))
    if name is None:
        raise TypingError(f"wgmma multiplies float16 or uint16 (bfloat16), not {shared}.")
    if not isinstance(columns, types.IntegerLiteral) or columns.literal_value not in range(
        8, 257, 8
    ):
        raise TypingError(f"wgmma takes a constant number of columns, 8, 16 .. 256, not {columns}.")
    if getattr(accumulator, "dtype", None) != types.float32 or accumulator.ndim != 1:
        raise TypingError(f"wgmma adds to a float32 array of one axis, not to {accumulator}.")
    count = columns.literal_value // 2
    assembly = _multiply(columns.literal_value, name)

    def codegen(context, builder, signature, args):
        data = context.make_array(accumulator)(context, builder, args[1]).data
        places = [builder.gep(data, [ir.Constant(_LONG, k)]) for k in range(count)]
        operands = [builder.load(place) for place in places]
        operands += [args[2], args[3], builder.zext(args[5], WORD)]
        # Convergent: LLVM must not move it to where fewer threads meet it.
        result = builder.call(assembly, operands, attrs=("convergent",))
        for k, place in enumerate(places):
            builder.store(builder.extract_value(result, k), place)
        return context.get_dummy_value()

    kinds = (shared, accumulator, types.uint64, types.uint64, columns, types.boolean)
    return types.void(*kinds), codegen


def _multiply(columns, name):
    """Return the instruction: accumulators come out of it where they went in."""
    count = columns // 2
    registers = ", ".join(f"${k}" for k in range(count))
    a, b, accumulate = (f"${2 * count + k}" for k in range(3))
    return ir.InlineAsm(
        ir.FunctionType(
            ir.LiteralStructType([FLOAT] * count), [FLOAT] * count + [_LONG, _LONG, WORD]
        ),
        f"{{ .reg .pred add; setp.ne.b32 add, {accumulate}, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{name}.{name} "
        f"{{{registers}}}, {a}, {b}, add, 1, 1, 0, 0; }}",
        ",".join(["=f"] * count + [str(k) for k in range(count)] + ["l", "l", "r", "~{memory}"]),
        True,
    )


@twin(wgmma, collective=True, whole_warp=True)
def _(lanes, shared, accumulator, a, b, columns, accumulate):
    lanes.machine.warpgroups.begin(lanes, shared, accumulator, a, b, int(columns), accumulate)


@intrinsic
def wgmma_fence(typing_context):
    """Have registers ready for the batch of :func:`wgmma` that follows.

    Instruction: ``wgmma.fence.sync.aligned``. Capability: sm_90a, and no other.
    """
    return _for_warpgroup(_FENCE)


@twin(wgmma_fence, collective=True, whole_warp=True)
def _(lanes):
    lanes.machine.warpgroups.fence(lanes)


@intrinsic
def wgmma_commit(typing_context):
    """Make a group of each :func:`wgmma` since the last one, to wait for together.

    Instruction: ``wgmma.commit_group.sync.aligned``. Capability: sm_90a, and no other.
    """
    return _for_warpgroup(_COMMIT)


@twin(wgmma_commit, collective=True, whole_warp=True)
def _(lanes):
    lanes.machine.warpgroups.commit(lanes)


@intrinsic
def wgmma_wait(typing_context, groups):
    """Wait until at most so many of the last groups are under way.

    Instruction: ``wgmma.wait_group.sync.aligned``. Capability: sm_90a, and no other.

    Parameters
    ----------
    groups : int
        A constant; 0 waits for all.
    """
    if not isinstance(groups, types.IntegerLiteral):
        raise TypingError(f"wgmma_wait takes a constant, not {groups}.")
    _, codegen = _for_warpgroup(_alone(f"wgmma.wait_group.sync.aligned {groups.literal_value};"))
    return types.void(groups), codegen


@twin(wgmma_wait, collective=True, whole_warp=True)
def _(lanes, groups):
    lanes.machine.warpgroups.wait(lanes, int(groups))


@intrinsic
def give_registers(typing_context, left):
    """Give registers back, so that each thread of the warpgroup keeps so many.

    Instruction: ``setmaxnreg.dec.sync.aligned.u32``. Capability: sm_90a, and no other.

    Parameters
    ----------
    left : int
        A constant: a multiple of 8 from 24 to 256.
    """
    return _registers("give_registers", "dec", left)


@intrinsic
def take_registers(typing_context, wanted):
    """Wait until registers that others gave back are enough, so that each thread has so many.

    Instruction: ``setmaxnreg.inc.sync.aligned.u32``. Capability: sm_90a, and no other.

    Parameters
    ----------
    wanted : int
        A constant: a multiple of 8 from 24 to 256.
    """
    return _registers("take_registers", "inc", wanted)


@twin(give_registers, take_registers, collective=True, whole_warp=True)
def _(lanes, count):
    """Do nothing: how many registers there are is no concern of the simulator's."""


def _registers(name, way, count):
    if not isinstance(count, types.IntegerLiteral) or count.literal_value not in range(24, 257, 8):
        raise TypingError(f"{name} takes a constant, 24, 32 .. 256, not {count}.")
    assembly = _alone(f"setmaxnreg.{way}.sync.aligned.u32 {count.literal_value};")
    _, codegen = _for_warpgroup(assembly)
    return types.void(count), codegen


def _for_warpgroup(assembly):
    """Return what an intrinsic does that is one instruction without operands."""

    def codegen(context, builder, signature, args):
        builder.call(assembly, [], attrs=("convergent",))
        return context.get_dummy_value()

    return types.void(), codegen
