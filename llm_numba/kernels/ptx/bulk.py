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

The way back is :func:`tma_store_2d`. Nobody waits at a barrier for it: the thread that began such
copies makes groups of them, with :func:`bulk_commit`, and waits for those. Before it, whoever wrote
the tile has :func:`~llm_numba.kernels.ptx.barriers.fence_async`, and a barrier behind that.

What it must know of the matrix, address, lengths, strides, the box, stands in a *tensor map* of
128 bytes, made before the launch (:mod:`llm_numba.runtime.tensor_maps`) and passed by value. The
engine reads it where the launch put it, so a kernel says of each map that it is a
:func:`parameter`, before it does anything else with it.

The order on the right is the *128-byte swizzle*. A tile has rows of 128 bytes, all 32 banks. If
they lay straight, the same 16 bytes of 8 rows would be in the same 4 banks, and 8 rows are what a
tensor core reads at a time. So piece c of row r goes to place c xor (r mod 8): any column of
8 pieces then lies in 8 different places. The engine takes r and c from the address, bits 7 to 9
and 4 to 6, so a tile must begin at a multiple of 1024 bytes.

The engine can also add what it brings back, and fetch into the L2 cache alone:
:mod:`~llm_numba.kernels.ptx.bulk_sums`.

Source: "PTX ISA", ``cp.async.bulk.tensor``; "CUDA C++ Programming Guide", "Using TMA to transfer
multi-dimensional arrays", "The different swizzle modes".
"""

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

from llm_numba.kernels.ptx.barriers import emit_shared_address, is_barriers
from llm_numba.kernels.ptx.elements import WORD
from llm_numba.runtime.signature import MAP_ADDRESS, MAP_POINTER, TENSOR_MAP
from llm_numba.simulator.twins import twin

_ELEMENTS = (types.float16, types.uint16, types.float32, types.int8, types.uint8)
_MAP = MAP_POINTER
_MAP_ALIGNMENT = 64  # bytes
_LOAD = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [WORD, _MAP, WORD, WORD, WORD]),
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[$0], [$1, {$2, $3}], [$4];",
    "r,l,r,r,r,~{memory}",
    True,
)

_STORE = ir.InlineAsm(
    ir.FunctionType(ir.VoidType(), [_MAP, WORD, WORD, WORD]),
    "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [$0, {$1, $2}], [$3];",
    "l,r,r,r,~{memory}",
    True,
)


def _alone(assembly):
    return ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), assembly, "~{memory}", True)


_COMMIT = _alone("cp.async.bulk.commit_group;")


@intrinsic
def parameter(typing_context, tensor_map):
    """Name a tensor map among a kernel's parameters; for a kernel, not for a device function.

    Without it the compiler would take the parameter for an address. With it, it is 128 bytes that
    do not change, and need not be copied to where they could (``__grid_constant__`` in CUDA C++).

    Parameters
    ----------
    tensor_map
        A parameter of the kernel. What is no tensor map is returned as it is.

    Returns
    -------
    tensor map
        For :func:`tma_load_2d` and its like, also in device functions.
    """

    def codegen(context, builder, signature, args):
        if tensor_map == TENSOR_MAP:
            _pass_by_value(builder.function)
        return args[0]

    return (MAP_ADDRESS if tensor_map == TENSOR_MAP else tensor_map)(tensor_map), codegen


@twin(parameter)
def _(lanes, tensor_map):
    return tensor_map


def _pass_by_value(function):
    """Mark all tensor maps among a kernel's parameters; once is enough."""
    maps = [each for each in function.args if each.type == MAP_POINTER]
    if any(each.attributes.align for each in maps):
        return
    for each in maps:
        # With a blank, llvmlite does not write the type behind it, which NVVM does not read.
        set.add(each.attributes, "byval ")
        each.attributes.align = _MAP_ALIGNMENT
    module = function.module
    # Numbered from 1; Numba's place for a result, the first now, will be gone.
    numbers = [ir.Constant(WORD, function.args.index(each)) for each in maps]
    mark = ir.MetaDataString(module, "grid_constant"), module.add_metadata(numbers)
    annotations = cgutils.get_or_insert_named_metadata(module, "nvvm.annotations")
    annotations.add(module.add_metadata((function, *mark)))


@intrinsic
def tma_load_2d(typing_context, shared, shared_index, tensor_map, column, row, barriers, barrier):
    """Begin to bring a box of a matrix into shared memory; for one thread.

    The bytes count at the barrier, whose phase somebody must have told of them by
    :func:`~llm_numba.kernels.ptx.barriers.mbarrier_expect`.

    Instruction: ``cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes``.
    Capability: sm_90.

    Parameters
    ----------
    shared : C-contiguous shared array
        Of what the matrix is: float16, uint16 (bfloat16), float32, int8 or uint8.
    shared_index : int
        Element where the box goes; its address must be a multiple of 1024.
    tensor_map : tensor map
        Of the matrix, as :func:`~llm_numba.runtime.tensor_maps.tensor_map` made it; a
        :func:`parameter` of the kernel.
    column, row : int
        The first element of the box in the matrix; it may lie outside, and what does becomes zero.
    barriers : C-contiguous shared array of uint64
    barrier : int
    """
    check_tile("tma_load_2d", shared, tensor_map)
    if not is_barriers(barriers):
        raise TypingError(f"tma_load_2d takes barriers of uint64, not {barriers}.")

    def codegen(context, builder, signature, args):
        target = emit_shared_address(context, builder, shared, args[0], args[1])
        place = emit_shared_address(context, builder, barriers, args[5], args[6])
        builder.call(_LOAD, [target, args[2], args[3], args[4], place])
        return context.get_dummy_value()

    word, place = types.int32, types.int64
    return types.void(shared, place, tensor_map, word, word, barriers, place), codegen


@twin(tma_load_2d)
def _(lanes, shared, shared_index, tensor_map, column, row, barriers, barrier):
    lanes.machine.bulk.load(lanes, shared, shared_index, tensor_map, column, row, barriers, barrier)


@intrinsic
def tma_store_2d(typing_context, shared, shared_index, tensor_map, column, row):
    """Begin to bring a box back into its matrix, but for what lies outside; for one thread.

    A box may stand out over the last row and the last column. It may not begin before the first:
    of a negative row an H100 makes an "illegal instruction", and the simulator refuses it.

    Instruction: ``cp.async.bulk.tensor.2d.global.shared::cta.bulk_group``. Capability: sm_90.

    Parameters
    ----------
    shared : C-contiguous shared array
    shared_index : int
    tensor_map : tensor map
    column, row : int
        Where the box begins in the matrix, 0 or more.
    """
    check_tile("tma_store_2d", shared, tensor_map)

    def codegen(context, builder, signature, args):
        source = emit_shared_address(context, builder, shared, args[0], args[1])
        builder.call(_STORE, [args[2], args[3], args[4], source])
        return context.get_dummy_value()

    return types.void(shared, types.int64, tensor_map, types.int32, types.int32), codegen


@twin(tma_store_2d)
def _(lanes, shared, shared_index, tensor_map, column, row):
    lanes.machine.bulk.store(lanes, shared, shared_index, tensor_map, column, row)


@intrinsic
def bulk_commit(typing_context):
    """Make a group of the thread's stores since the last one, to wait for together.

    Instruction: ``cp.async.bulk.commit_group``. Capability: sm_90.
    """

    def codegen(context, builder, signature, args):
        builder.call(_COMMIT, [])
        return context.get_dummy_value()

    return types.void(), codegen


@twin(bulk_commit)
def _(lanes):
    lanes.machine.bulk.commit(lanes)


@intrinsic
def bulk_wait(typing_context, groups):
    """Wait until at most so many of the thread's last groups have yet to read shared memory.

    Then a tile of the others may be overwritten. What they write is in global memory when the
    kernel ends; so a block waits for all of its groups before it does.

    Instruction: ``cp.async.bulk.wait_group.read``. Capability: sm_90.

    Parameters
    ----------
    groups : int
        A constant; 0 waits for all.
    """
    if not isinstance(groups, types.IntegerLiteral):
        raise TypingError(f"bulk_wait takes a constant, not {groups}.")
    wait = _alone(f"cp.async.bulk.wait_group.read {groups.literal_value};")

    def codegen(context, builder, signature, args):
        builder.call(wait, [])
        return context.get_dummy_value()

    return types.void(groups), codegen


@twin(bulk_wait)
def _(lanes, groups):
    lanes.machine.bulk.wait(lanes, int(groups))


def check_tile(name, shared, tensor_map):
    """Raise unless a tile and a map are of types that the copy engine takes."""
    if not isinstance(shared, types.Array) or shared.dtype not in _ELEMENTS or shared.layout != "C":
        raise TypingError(f"{name} takes C-contiguous arrays of {_ELEMENTS}, not {shared}.")
    check_map(name, tensor_map)


def check_map(name, tensor_map):
    """Raise unless a type is that of a map that the kernel has called its parameter."""
    # In the simulator it is an array.
    if tensor_map != MAP_ADDRESS and not is_barriers(tensor_map):
        raise TypingError(f"{name} takes a map that is a `parameter`, not {tensor_map}.")
