"""What blocks of a cluster do for each other: bring a tile for all, and arrive at all's barriers.

Blocks side by side in C share rows of B. Each of two brings half of them, for both: the copy engine
reads a box once, and writes it to the same place in the shared memory of each block whose bit is
set in a mask::

    block 0   | rows of A of its own | B: rows 0 to 127 --+--> here
                                                          +--> the same place in block 1
    block 1   | rows of A of its own | B: rows 128 on  ---+--> here
                                                          +--> the same place in block 0

The bytes count at the barrier of the same place, too, in each block that they come to. So a block's
barrier is told of all that is coming, also of what others bring. And who brings must know that the
place is free in *all* blocks: whoever has read it arrives at the barrier of each block of the
cluster, :func:`mbarrier_arrive_at`.

Before the first copy all barriers must be made, those of the others as well; and no block may end
while others write to it, or arrive: hence :func:`~llm_numba.kernels.ptx.clusters.cluster_sync` at
the beginning and at the end. It waits until all memory that its threads wrote can be seen. Where
that takes too long, :func:`fence_barriers` says so much of the barriers alone, and
:func:`~llm_numba.kernels.ptx.clusters.cluster_arrive` and ``cluster_wait`` are enough behind it.

Source: "PTX ISA", ``cp.async.bulk.tensor`` (``.multicast::cluster``), ``mapa``,
``mbarrier.arrive``, ``fence.mbarrier_init``.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.barriers import emit_shared_address, is_barriers
from llm_numba.kernels.ptx.bulk import check_tile
from llm_numba.kernels.ptx.elements import HALFWORD, WORD
from llm_numba.runtime.signature import MAP_POINTER
from llm_numba.simulator.twins import twin

_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD, MAP_POINTER, WORD, WORD, WORD, HALFWORD]),
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
    ".multicast::cluster [$0], [$1, {$2, $3}], [$4], $5;",
    "r,l,r,r,r,h,~{memory}",
    True,
)
_ARRIVE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD, WORD]),
    "{ .reg .b32 there; mapa.shared::cluster.u32 there, $0, $1; "
    "mbarrier.arrive.shared::cluster.b64 _, [there]; }",
    "r,r,~{memory}",
    True,
)

_FENCE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), []), "fence.mbarrier_init.release.cluster;", "~{memory}", True
)


@intrinsic
def tma_multicast_2d(
    typing_context, shared, shared_index, tensor_map, column, row, barriers, barrier, blocks
):
    """Begin to bring a box of a matrix to the same place in several blocks; for one thread.

    Instruction: ``cp.async.bulk.tensor.2d`` as of :func:`~llm_numba.kernels.ptx.bulk.tma_load_2d`,
    with ``.multicast::cluster``. Capability: sm_90.

    Parameters
    ----------
    shared, shared_index, tensor_map, column, row, barriers, barrier
        As of :func:`~llm_numba.kernels.ptx.bulk.tma_load_2d`; place and barrier are those of each
        block.
    blocks : int
        Of which the bit r stands for the block of rank r in the cluster.
    """
    check_tile("tma_multicast_2d", shared, tensor_map)
    if not is_barriers(barriers):
        raise TypingError(f"tma_multicast_2d takes barriers of uint64, not {barriers}.")

    def codegen(context, builder, signature, args):
        target = emit_shared_address(context, builder, shared, args[0], args[1])
        place = emit_shared_address(context, builder, barriers, args[5], args[6])
        mask = builder.trunc(args[7], HALFWORD)
        builder.call(_LOAD, [target, args[2], args[3], args[4], place, mask])
        return context.get_dummy_value()

    word, place = types.int32, types.int64
    return types.void(shared, place, tensor_map, word, word, barriers, place, word), codegen


@twin(tma_multicast_2d)
def _(lanes, shared, shared_index, tensor_map, column, row, barriers, barrier, blocks):
    lanes.machine.bulk.load(
        lanes, shared, shared_index, tensor_map, column, row, barriers, barrier, blocks
    )


@intrinsic
def mbarrier_arrive_at(typing_context, barriers, index, rank):
    """Arrive at the barrier of the same place in any block of the cluster, and go on.

    It says to the other block what this thread has done with, not what it has written: a release
    for the whole cluster would make each arrival wait for all stores of the thread.

    Instruction: ``mapa.shared::cluster``, ``mbarrier.arrive.shared::cluster.b64``.
    Capability: sm_90.

    Parameters
    ----------
    barriers : C-contiguous shared array of uint64
    index : int
    rank : int
        Of the block, as :func:`~llm_numba.kernels.ptx.clusters.cluster_rank` counts; its own too.
    """
    if not is_barriers(barriers):
        raise TypingError(f"mbarrier_arrive_at takes barriers of uint64, not {barriers}.")

    def codegen(context, builder, signature, args):
        place = emit_shared_address(context, builder, barriers, args[0], args[1])
        builder.call(_ARRIVE, [place, args[2]])
        return context.get_dummy_value()

    return types.void(barriers, types.int64, types.int32), codegen


@twin(mbarrier_arrive_at)
def _(lanes, barriers, index, rank):
    block = lanes.machine.barriers.block_of_cluster(lanes, rank)
    lanes.machine.mbarriers.arrive(lanes, barriers, index, 0, block)


@intrinsic
def fence_barriers(typing_context):
    """Let the other blocks of the cluster find the barriers that this thread has made.

    They do so once they have waited for its
    :func:`~llm_numba.kernels.ptx.clusters.cluster_arrive`, which must follow. In the simulator all
    that the thread did before is known by then; the hardware promises that of barriers alone.

    Instruction: ``fence.mbarrier_init.release.cluster``. Capability: sm_90.
    """

    def codegen(context, builder, signature, args):
        builder.call(_FENCE, [])
        return context.get_dummy_value()

    return types.void(), codegen


@twin(fence_barriers)
def _(lanes):
    lanes.machine.barriers.fence(lanes)
