r"""Tiles of a matrix that the copy engine (TMA, tensor memory accelerator) brings by itself.

One thread says which tile, and goes on. The engine computes the addresses, reads the rows, writes
zeros for what lies outside the matrix, puts all into shared memory and tells an mbarrier how many
bytes have come::

    A [M, K] in global memory                shared memory, 8 rows of 128 bytes

         k      k + 64                         16 bytes each:  0 1 2 3 4 5 6 7
       +---------------+                       row 0           0 1 2 3 4 5 6 7
     m |    +-----+    |                           1           1 0 3 2 5 4 7 6
       |    | box |    |   tma_load_2d             2           2 3 0 1 6 7 4 5
       |    +-----+    |  ------------->           3           3 2 1 0 7 6 5 4
       |               |                           4           4 5 6 7 0 1 2 3
       +---------------+                           5           5 4 7 6 1 0 3 2
                                                   6           6 7 4 5 2 3 0 1
                                                   7           7 6 5 4 3 2 1 0

What it must know of the matrix, address, lengths, strides, the box, stands in a *tensor map* of
128 bytes, made before the launch (:mod:`llm_numba.runtime.tensor_maps`).

The order on the right is the *128-byte swizzle*. A tile has rows of 128 bytes, all 32 banks. If
they lay straight, the same 16 bytes of 8 rows would be in the same 4 banks, and 8 rows are what a
tensor core reads at a time. So piece c of row r goes to place c xor (r mod 8): any column of
8 pieces then lies in 8 different places. The engine takes r and c from the address, bits 7 to 9
and 4 to 6, so a tile must begin at a multiple of 1024 bytes.

Source: "PTX ISA", ``cp.async.bulk.tensor``; "CUDA C++ Programming Guide", "Using TMA to transfer
multi-dimensional arrays", "The different swizzle modes".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.barriers import emit_shared_address, is_barriers
from llm_numba.kernels.ptx.elements import WORD
from llm_numba.simulator.twins import twin

_HALVES = (types.float16, types.uint16)
_MAP = ir.IntType(64).as_pointer(1)
_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD, _MAP, WORD, WORD, WORD]),
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[$0], [$1, {$2, $3}], [$4];",
    "r,l,r,r,r,~{memory}",
    True,
)


@intrinsic
def tma_load_2d(typing_context, shared, shared_index, tensor_map, column, row, barriers, barrier):
    """Begin to bring a box of a matrix into shared memory; for one thread.

    The bytes count at the barrier, whose phase somebody must have told of them by
    :func:`~llm_numba.kernels.ptx.barriers.mbarrier_expect`.

    Instruction: ``cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes``.
    Capability: sm_90.

    Parameters
    ----------
    shared : C-contiguous shared array of float16 or uint16 (bfloat16)
    shared_index : int
        Element where the box goes; its address must be a multiple of 1024.
    tensor_map : array of uint64 [16]
        Of the matrix, as :func:`~llm_numba.runtime.tensor_maps.tensor_map` made it.
    column, row : int
        The first element of the box in the matrix; it may lie outside, and what does becomes zero.
    barriers : C-contiguous shared array of uint64
    barrier : int
    """
    if not isinstance(shared, types.Array) or shared.dtype not in _HALVES or shared.layout != "C":
        raise TypingError(f"tma_load_2d fills C-contiguous arrays of {_HALVES}, not {shared}.")
    if not is_barriers(barriers) or not is_barriers(tensor_map):
        raise TypingError(
            f"tma_load_2d takes arrays of uint64 as map and barriers, not {tensor_map}, {barriers}."
        )

    def codegen(context, builder, signature, args):
        target = emit_shared_address(context, builder, shared, args[0], args[1])
        data = context.make_array(tensor_map)(context, builder, args[2]).data
        place = emit_shared_address(context, builder, barriers, args[5], args[6])
        source = builder.addrspacecast(data, _MAP)
        builder.call(_LOAD, [target, source, args[3], args[4], place])
        return context.get_dummy_value()

    word, place = types.int32, types.int64
    return types.void(shared, place, tensor_map, word, word, barriers, place), codegen


@twin(tma_load_2d)
def _(lanes, shared, shared_index, tensor_map, column, row, barriers, barrier):
    lanes.machine.bulk.load(lanes, shared, shared_index, tensor_map, column, row, barriers, barrier)
