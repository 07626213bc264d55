"""What the copy engine does besides copying: add a tile to a matrix, and fetch ahead of time.

*Sums of parts*. Where K is cut in parts, each block has a part of the same tile of C. The engine
adds them in the L2 cache, without a thread that reads C, and without a lock::

    block 0, first half of K    tile  -- tma_reduce_add_2d --+
                                                             +-->  C += tile, number by number
    block 1, second half of K   tile  -- tma_reduce_add_2d --+

C begins as zeros, or as what the product is added to. Each number is added as a whole, but in no
order: sums of float32 differ in their last bits from run to run. It belongs to the thread's groups,
as :func:`~llm_numba.kernels.ptx.bulk.tma_store_2d` does, and wants the same fences.

*Ahead of time*. :func:`tma_prefetch_2d` has a box read into the L2 cache, so that the load that
follows finds it there; :func:`prefetch_map` has the engine read a map that it will need. Nobody
waits for either, and nothing depends on them.

Source: "PTX ISA", ``cp.reduce.async.bulk.tensor``, ``cp.async.bulk.prefetch.tensor``, ``prefetch``.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.barriers import emit_shared_address
from llm_numba.kernels.ptx.bulk import check_map, check_tile
from llm_numba.kernels.ptx.elements import WORD
from llm_numba.runtime.signature import MAP_POINTER
from llm_numba.simulator.twins import twin


def _instruction(assembly, constraints, *operands):
    kind = ir.FunctionType(ir.VoidType(), operands)
    return ir.InlineAsm(kind, assembly, f"{constraints},~{{memory}}", True)


_ADD = _instruction(
    "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [$0, {$1, $2}], [$3];",
    "l,r,r,r",
    *(MAP_POINTER, WORD, WORD, WORD),
)
_FETCH = _instruction(
    "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [$0, {$1, $2}];",
    "l,r,r",
    *(MAP_POINTER, WORD, WORD),
)
_FETCH_MAP = _instruction("prefetch.tensormap [$0];", "l", MAP_POINTER)


@intrinsic
def tma_reduce_add_2d(typing_context, shared, shared_index, tensor_map, column, row):
    """Begin to add a box to its matrix, but for what lies outside; for one thread.

    Instruction: ``cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group``.
    Capability: sm_90.

    Parameters
    ----------
    shared : C-contiguous shared array
    shared_index : int
    tensor_map : tensor map
        Of a matrix of float32, float16 or bfloat16; the latter two are rounded at each addition.
    column, row : int
        As of :func:`~llm_numba.kernels.ptx.bulk.tma_store_2d`.
    """
    check_tile("tma_reduce_add_2d", shared, tensor_map)

    def codegen(context, builder, signature, args):
        source = emit_shared_address(context, builder, shared, args[0], args[1])
        builder.call(_ADD, [args[2], args[3], args[4], source])
        return context.get_dummy_value()

    return types.void(shared, types.int64, tensor_map, types.int32, types.int32), codegen


@twin(tma_reduce_add_2d)
def _(lanes, shared, shared_index, tensor_map, column, row):
    lanes.machine.bulk.store(lanes, shared, shared_index, tensor_map, column, row, adds=True)


@intrinsic
def tma_prefetch_2d(typing_context, tensor_map, column, row):
    """Have a box of a matrix read into the L2 cache; for one thread.

    Instruction: ``cp.async.bulk.prefetch.tensor.2d.L2.global.tile``. Capability: sm_90.

    Parameters
    ----------
    tensor_map : tensor map
    column, row : int
        As of :func:`~llm_numba.kernels.ptx.bulk.tma_load_2d`.
    """
    check_map("tma_prefetch_2d", tensor_map)

    def codegen(context, builder, signature, args):
        builder.call(_FETCH, args)
        return context.get_dummy_value()

    return types.void(tensor_map, types.int32, types.int32), codegen


@twin(tma_prefetch_2d)
def _(lanes, tensor_map, column, row):
    lanes.machine.bulk.prefetch(lanes, tensor_map)


@intrinsic
def prefetch_map(typing_context, tensor_map):
    """Have the copy engine read a tensor map that it will need; for one thread.

    Instruction: ``prefetch.tensormap``. Capability: sm_90.

    Parameters
    ----------
    tensor_map : tensor map
    """
    check_map("prefetch_map", tensor_map)

    def codegen(context, builder, signature, args):
        builder.call(_FETCH_MAP, args)
        return context.get_dummy_value()

    return types.void(tensor_map), codegen


@twin(prefetch_map)
def _(lanes, tensor_map):
    lanes.machine.bulk.prefetch(lanes, tensor_map)
