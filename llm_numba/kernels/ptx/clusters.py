"""Clusters: blocks that run side by side and write into each other's shared memory.

What does not fit into one block may fit into eight. The blocks of a cluster start together, have
a barrier of their own, and reach each other's shared memory (*distributed shared memory*) without
a detour through global memory:

::

    block 0            block 1            block 2            block 3
    [ a0 a1 a2 a3 ]    [ a0 a1 a2 a3 ]    [ a0 a1 a2 a3 ]    [ a0 a1 a2 a3 ]     shared arrays
          ^                  ^                  ^                  ^
          +------------------+---- block 2 -----+------------------+
                             cluster_store(a, 2, mine, rank) for each rank

A kernel that does so keeps three rules:

- It is marked with :func:`llm_numba.simulator.clusters.in_clusters`, and launched in whole
  clusters.
- Before it reads from another block or writes to it, that block must have begun.
  :func:`cluster_arrive` at the beginning says so to the others, and :func:`cluster_wait` waits
  until all have said it. Between the two a kernel does what it can do alone.
- Before it ends, or reads what others wrote, they must have written: :func:`cluster_sync`.

The instructions are from sm_90 on. Older GPUs have no clusters, and such a kernel is not launched
there.

Source: "CUDA C++ Programming Guide", "Distributed Shared Memory"; "PTX ISA", ``mapa``,
``barrier.cluster``, ``%cluster_ctarank``.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.elements import FLOAT, WORD
from llm_numba.kernels.ptx.target import emit_since
from llm_numba.simulator.twins import twin

_SHARED, _NOTHING = FLOAT.as_pointer(3), ir.Constant(WORD, 0)
_RANK = ir.InlineAsm(ir.FunctionType(WORD, []), "mov.u32 $0, %cluster_ctarank;", "=r", False)
_SYNC = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), []),
    "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
    "~{memory}",
    True,
)
_ARRIVE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), []), "barrier.cluster.arrive.relaxed.aligned;", "", True
)
_WAIT = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), []), "barrier.cluster.wait.aligned;", "~{memory}", True
)
_STORE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD, WORD, FLOAT]),
    "{ .reg .b32 there; mapa.shared::cluster.u32 there, $0, $1; "
    "st.shared::cluster.f32 [there], $2; }",
    "r,r,f,~{memory}",
    True,
)

_QUAD = types.UniTuple(types.float32, 4)
_FOUR_FLOATS = ir.LiteralStructType([FLOAT] * 4)
_LOAD16 = ir.InlineAsm(
    ir.FunctionType(_FOUR_FLOATS, [WORD, WORD]),
    "{ .reg .b32 there; mapa.shared::cluster.u32 there, $4, $5; "
    "ld.shared::cluster.v4.f32 {$0, $1, $2, $3}, [there]; }",
    "=f,=f,=f,=f,r,r,~{memory}",
    True,
)


@intrinsic
def cluster_rank(typing_context):
    """Return which block of its cluster this is, counted from 0.

    Instruction: ``%cluster_ctarank``. Capability: sm_90; below it, 0.

    Returns
    -------
    int32
    """

    def codegen(context, builder, signature, args):
        return emit_since(builder, 90, lambda: builder.call(_RANK, []), lambda: _NOTHING)

    return types.int32(), codegen


@twin(cluster_rank)
def _(lanes):
    return lanes.machine.block_of[lanes.ids] % lanes.machine.kernel.cluster


@intrinsic
def cluster_sync(typing_context):
    """Wait for all threads of the cluster, and see what they wrote before.

    As for ``cuda.syncthreads()``, the threads of a warp come to it together.

    Instruction: ``barrier.cluster.arrive.release``, ``barrier.cluster.wait.acquire``. Capability:
    sm_90; below it, none.
    """
    return _barrier(_SYNC)


@twin(cluster_sync, barrier="cluster")
def _(lanes):
    """Let nobody pass before all are there: the machine itself sees to that."""


@intrinsic
def cluster_arrive(typing_context):
    """Tell the cluster that this thread has begun, and go on; :func:`cluster_wait` follows.

    Nothing is said about memory.

    Instruction: ``barrier.cluster.arrive.relaxed``. Capability: sm_90; below it, none.
    """
    return _barrier(_ARRIVE)


@twin(cluster_arrive)
def _(lanes):
    lanes.machine.barriers.announce(lanes)


@intrinsic
def cluster_wait(typing_context):
    """Wait until all threads of the cluster have arrived, by :func:`cluster_arrive`.

    Instruction: ``barrier.cluster.wait``. Capability: sm_90; below it, none.
    """
    return _barrier(_WAIT)


@twin(cluster_wait, barrier="beginning")
def _(lanes):
    """Let nobody pass before all are there, as for :func:`cluster_sync`."""


@intrinsic
def cluster_store(typing_context, shared, index, value, rank):
    """Store a number into a shared array of any block of the cluster.

    Instruction: ``mapa.shared::cluster``, ``st.shared::cluster.f32``. Capability: sm_90; below it,
    none.

    Parameters
    ----------
    shared : C-contiguous shared array of float32
        The thread's own; the other block has it at the same place.
    index : int
        Counted from the start of the array however many axes it has.
    value : float32
    rank : int
        Of the block, as :func:`cluster_rank` counts.
    """
    if not isinstance(shared, types.Array) or (shared.dtype, shared.layout) != (types.float32, "C"):
        raise TypingError(f"cluster_store takes a C-contiguous array of float32, not {shared}.")
    if value != types.float32:
        raise TypingError(f"cluster_store takes a float32, not {value}; wrap it: float32(...).")

    def codegen(context, builder, signature, args):
        def newer():
            data = context.make_array(shared)(context, builder, args[0]).data
            pointer = builder.addrspacecast(builder.gep(data, [args[1]]), _SHARED)
            builder.call(_STORE, [builder.ptrtoint(pointer, WORD), args[3], args[2]])
            return _NOTHING

        emit_since(builder, 90, newer, lambda: _NOTHING)
        return context.get_dummy_value()

    return types.void(shared, types.int64, value, types.int32), codegen


@twin(cluster_store)
def _(lanes, shared, index, value, rank):
    block = lanes.machine.barriers.block_of_cluster(lanes, rank)
    lanes.store(shared.ravel(), index, value, block=block)


@intrinsic
def cluster_load16(typing_context, shared, index, rank):
    """Load four neighbours out of a shared array of any block of the cluster.

    Instruction: ``mapa.shared::cluster``, ``ld.shared::cluster.v4.f32``. Capability: sm_90; below
    it, zeros.

    Parameters
    ----------
    shared : C-contiguous shared array of float32
        The thread's own; the other block has it at the same place.
    index : int
        Counted from the start of the array however many axes it has; a multiple of 4, and so is
        the array's own beginning.
    rank : int
        Of the block, as :func:`cluster_rank` counts.

    Returns
    -------
    tuple of 4 float32
    """
    if not isinstance(shared, types.Array) or (shared.dtype, shared.layout) != (types.float32, "C"):
        raise TypingError(f"cluster_load16 takes a C-contiguous array of float32, not {shared}.")

    def codegen(context, builder, signature, args):
        def newer():
            data = context.make_array(shared)(context, builder, args[0]).data
            pointer = builder.addrspacecast(builder.gep(data, [args[1]]), _SHARED)
            return builder.call(_LOAD16, [builder.ptrtoint(pointer, WORD), args[2]])

        zeros = ir.Constant(_FOUR_FLOATS, [0.0] * 4)
        quad = emit_since(builder, 90, newer, lambda: zeros)
        items = [builder.extract_value(quad, k) for k in range(4)]
        return context.make_tuple(builder, _QUAD, items)

    return _QUAD(shared, types.int64, types.int32), codegen


@twin(cluster_load16, loads=True)
def _(lanes, shared, index, rank):
    block = lanes.machine.barriers.block_of_cluster(lanes, rank)
    return tuple(lanes.load(shared, index, count=4, block=block).T)


def _barrier(assembly):
    """Return what an intrinsic does that is one instruction, or two, without operands."""

    def codegen(context, builder, signature, args):
        def newer():
            builder.call(assembly, [], attrs=("convergent",))
            return _NOTHING

        emit_since(builder, 90, newer, lambda: _NOTHING)
        return context.get_dummy_value()

    return types.void(), codegen
