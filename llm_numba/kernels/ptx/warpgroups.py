r"""Tensor cores of a warpgroup: four warps multiply tiles that lie in shared memory.

``mma.sync`` wants its operands in registers, and bringing them there costs more instructions than
multiplying. ``wgmma`` reads both from shared memory. Four neighbouring warps, the first of them a
multiple of four, issue it together: D [64, N] += A [64, 16] B [N, 16]^T, with N up to 256. It goes
on while they do something else. Along K it takes 32 bytes, 16 numbers of 16 bits; of other
:mod:`~llm_numba.kernels.ptx.formats` as many as that is.

*Where an operand lies* says a descriptor of 64 bits, sizes in units of 16 bytes:

::

     63  62 61       52 51 49 48  46 45        32 31 30 29        16 15 14 13         0
    +------+-----------+-----+------+------------+-----+------------+-----+------------+
    |swizzle|    0     |  0  |  0   | stride, 64 |  0  | leading, 1 |  0  |  address   |
    +------+-----------+-----+------+------------+-----+------------+-----+------------+
      1: 128 bytes                   from 8 rows         not used by       of the first
                                     to the next 8       this swizzle      element

A tile has rows of 128 bytes, 64 numbers of 16 bits, in the swizzled order of
:mod:`~llm_numba.kernels.ptx.bulk`: eight rows are 1024 bytes, hence 64. An instruction
takes 32 bytes of each row; the next begin 32 bytes further on, so 2 is added to the
descriptor. The hardware swizzles the address that comes out, so this is right within a row.

*B along its columns*. Where weights lie as [K, N], a row of a tile is one k and 64 columns, and
:func:`wgmma_trans` reads it across; of numbers of 16 bits alone. Eight such rows are 1024 bytes,
the stride as before, and 16 of them are 2048: the next instruction's descriptor has 128 more.
What *leading* means now is how far the next 64 columns are::

                64 columns             the next 64
    k 0       +------------+ address  +------------+ address + leading
    ..        | 8 rows of  |          |            |
    k 7       | 128 bytes  |          |            |
              +------------+ + stride +------------+
    k 8 .. 15 |            |          |            |
              +------------+          +------------+

*A in registers*. In place of A's descriptor a local array of four words may be given. Of the 64
rows of 32 bytes, warp w has 16 w to 16 w + 15, and lane 4 g + t of it::

    words of a row   0   1   2   3   4   5   6   7
    row g            a[0] at word t  a[2] at word t + 4
    row g + 8        a[1]            a[3]

so that sums of one product, rounded in pairs, are operands of the next.

*The accumulator* D stays in registers. Warp w of the group has rows 16 w to 16 w + 15, and of
those, as with ``mma.sync``, lane 4 g + t has two of each eight columns:

::

    column        8 j + 2 t     8 j + 2 t + 1
    row g         d[4 j]        d[4 j + 1]
    row g + 8     d[4 j + 2]    d[4 j + 3]

*When*. :func:`wgmma_fence` before the first of a batch: registers that were written before are
ready. :func:`wgmma_commit` behind the last: the batch is a group. :func:`wgmma_wait` until at most
so many groups are under way. Before that, nobody may touch the accumulator or A's registers, nor
write into A or B.

In the simulator operands are read, multiplied and added at the wait and no sooner, and until then
the accumulator and A's registers count as not written. It wants a fence before each batch; the
hardware could do without one where nothing but ``wgmma`` has touched the registers since the last.

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
from llm_numba.kernels.ptx.formats import format_of
from llm_numba.simulator.twins import twin

_LONG = ir.IntType(64)
_WORDS = 4  # of A, in a thread's registers


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
    shared : C-contiguous shared array
    index : int
        Its address is a multiple of 1024.

    Returns
    -------
    uint64
    """
    return matrix_descriptor_trans(shared, index, 16)


@cuda.jit(device=True)
def matrix_descriptor_trans(shared, index, leading):
    """Describe B to :func:`wgmma_trans`: 64 columns a row of 128 bytes, swizzled.

    Parameters
    ----------
    shared : C-contiguous shared array
    index : int
        Its address is a multiple of 1024.
    leading : int
        Bytes from 64 columns to the next 64, a multiple of 1024.

    Returns
    -------
    uint64
    """
    address = uint64(shared_address(shared, index))
    layout = uint64(1) << uint64(62) | uint64(64) << uint64(32)
    return (
        (address & uint64(0x3FFFF)) >> uint64(4)
        | layout
        | uint64(leading) >> uint64(4) << uint64(16)
    )


@intrinsic
def wgmma(typing_context, shared, accumulator, a, b, columns, accumulate):
    """Begin to multiply 64 rows by some columns along 32 bytes: the warpgroup's tensor cores.

    All 128 threads of a warpgroup execute it together.

    Instruction: ``wgmma.mma_async.sync.aligned.m64n..k16.f32.bf16.bf16`` or its like with ``f16``,
    ``k8`` and ``tf32``, ``k32`` and ``e4m3``, ``e5m2`` or ``s8``. Capability: sm_90a, and no
    other.

    Parameters
    ----------
    shared : shared array of one of :mod:`~llm_numba.kernels.ptx.formats`
        Where A and B lie; only its type matters.
    accumulator : local array of float32 [columns / 2], of int32 for int8
        Sums of 8-bit floats are kept less precisely than float32 by the hardware.
    a : uint64, or local array of uint32 [4]
        A descriptor, as of :func:`matrix_descriptor`; or a fragment in registers.
    b : uint64
        A descriptor; both operands lie along K.
    columns : int
        A constant: a multiple of 8, up to 256; of int8, from 32 on a multiple of 16.
    accumulate : bool
        Whether to add to what the accumulator holds; else that does not matter.
    """
    return _product("wgmma", format_of("wgmma", shared), False, shared, accumulator, a, b, columns)


@intrinsic
def wgmma_trans(typing_context, shared, accumulator, a, b, columns, accumulate):
    """Begin to multiply as :func:`wgmma` does, by a B that lies along its columns.

    Instruction: as of :func:`wgmma`, with ``imm-trans-b`` 1. Capability: sm_90a, and no other.

    Parameters
    ----------
    shared : shared array of float16 or uint16 (bfloat16)
    accumulator, a, columns, accumulate
        As of :func:`wgmma`.
    b : uint64
        A descriptor, as of :func:`matrix_descriptor_trans`.
    """
    of = format_of("wgmma_trans", shared, 16)
    return _product("wgmma_trans", of, True, shared, accumulator, a, b, columns)


@twin(wgmma, collective=True, whole_warp=True)
def _(lanes, shared, accumulator, a, b, columns, accumulate):
    lanes.machine.warpgroups.begin(lanes, shared, accumulator, a, b, int(columns), accumulate)


@twin(wgmma_trans, collective=True, whole_warp=True)
def _(lanes, shared, accumulator, a, b, columns, accumulate):
    lanes.machine.warpgroups.begin(
        lanes, shared, accumulator, a, b, int(columns), accumulate, across=True
    )


def _product(name, of, across, shared, accumulator, a, b, columns):
    """Return signature and code of an intrinsic that begins a product."""
    if not isinstance(columns, types.IntegerLiteral) or not _is_width(columns.literal_value, of):
        raise TypingError(
            f"{name} takes a constant number of columns, 8, 16 .. 256, not {columns}."
        )
    if getattr(accumulator, "dtype", None) != of.sums or accumulator.ndim != 1:
        raise TypingError(f"{name} adds to a {of.sums} array of one axis, not to {accumulator}.")
    in_registers = isinstance(a, types.Array)
    if in_registers and (a.dtype, a.ndim) != (types.uint32, 1):
        raise TypingError(f"{name} takes A as a descriptor or a local array of uint32, not {a}.")
    count = columns.literal_value // 2
    assembly = _multiply(columns.literal_value, of, in_registers, across)

    def items(context, builder, array, value, number):
        data = context.make_array(array)(context, builder, value).data
        return [builder.gep(data, [ir.Constant(_LONG, k)]) for k in range(number)]

    def codegen(context, builder, signature, args):
        places = items(context, builder, accumulator, args[1], count)
        of_a = [args[2]]
        if in_registers:
            of_a = [builder.load(word) for word in items(context, builder, a, args[2], _WORDS)]
        operands = [builder.load(place) for place in places]
        operands += [*of_a, args[3], builder.zext(args[5], WORD)]
        # Convergent: LLVM must not move it to where fewer threads meet it.
        result = builder.call(assembly, operands, attrs=("convergent",))
        for k, place in enumerate(places):
            builder.store(builder.extract_value(result, k), place)
        return context.get_dummy_value()

    kind = a if in_registers else types.uint64
    kinds = (shared, accumulator, kind, types.uint64, columns, types.boolean)
    return types.void(*kinds), codegen


def _is_width(columns, of):
    wide = 16 if of.sums == types.int32 else 8
    return columns in (*range(8, 32, 8), *range(32, 257, wide))


def _multiply(columns, of, in_registers, across):
    """Return the instruction: accumulators come out of it where they went in."""
    count, words = columns // 2, _WORDS if in_registers else 1
    registers = [f"${k}" for k in range(2 * count + words + 2)]
    sums, (*a, b, accumulate) = ", ".join(registers[:count]), registers[2 * count :]
    a = f"{{{', '.join(a)}}}" if in_registers else a[0]
    # Signs of A and B; then, of numbers of 16 bits alone, which of those in memory lie across.
    modes = "" if of.sums == types.int32 else ", 1, 1"
    if of.depth == 16:
        modes += f", {across:d}" if in_registers else f", 0, {across:d}"
    kind = FLOAT if of.sums == types.float32 else WORD
    kinds = [WORD] * words if in_registers else [_LONG]
    ties = [f"={of.constraint}"] * count + [str(k) for k in range(count)]
    inputs = ["r"] * words if in_registers else ["l"]
    return ir.InlineAsm(
        ir.FunctionType(
            ir.LiteralStructType([kind] * count), [kind] * count + [*kinds, _LONG, WORD]
        ),
        f"{{ .reg .pred add; setp.ne.b32 add, {accumulate}, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{of.depth}.{of.name_of_sums}"
        f".{of.name}.{of.name} {{{sums}}}, {a}, {b}, add{modes}; }}",
        ",".join([*ties, *inputs, "l", "r", "~{memory}"]),
        True,
    )


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
    # Warps that come from several waits have been together: these lanes come from one.
    lanes.machine.warpgroups.wait(lanes, np.unique(groups).item())


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
