r"""A Hopper product that leaves 8 bits a number: bias, activation and quantisation in one kernel.

.. math:: Y = \mathrm{act}(A W^T + b) \qquad
          s_{mj} = \max_{n \in \text{block } j} |Y_{mn}| / L \qquad Q_{mn} = Y_{mn} / s_{mj}

A block is 128 neighbours of a row, and L is the largest number of the format: 448 of e4m3, 127 of
int8. What multiplies Q next adds up a block's products and then multiplies the sum by its scale. A
scale for a whole row could not be known here: it needs all tiles of the row. It belongs to the norm
that reads the row anyway.

A kernel of its own would read Y in 16 bits, and Y would have been rounded twice. Here a row's 128
numbers lie in four threads, 32 in each, finished where they are::

    thread 4r      0 1         8 9         16 17   ...      largest of 32 --+
    thread 4r + 1      2 3        10 11                     largest of 32 --+--> two exchanges:
    thread 4r + 2          4 5        12 13                 largest of 32 --+    of 128
    thread 4r + 3              6 7        14 15             largest of 32 --+

A block's row is 128 bytes then, a whole row of the swizzle: one room of shared memory holds a block
of 64 rows, and the copy engine takes it for 64 columns of 16-bit numbers.
"""

import functools
from typing import Any

from numba import cuda, float32
from numba.cuda import types

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, gemm, ptx
from llm_numba.kernels.gemm_hopper import LARGE, TOGETHER, require_addressable, require_hopper
from llm_numba.kernels.gemm_hopper_epilogue import GATED, finishing
from llm_numba.kernels.gemm_hopper_fused import blocks_for
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_ROWS,
    GROUP_THREADS,
    Ending,
    Tile,
    first_place,
    place_of_thread,
)
from llm_numba.kernels.gemm_hopper_specialised import specialised
from llm_numba.kernels.gemm_hopper_stored import ROOM, await_all_rooms, await_room, send
from llm_numba.kernels.gemm_plans import present
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import Launch, empty, launch_all, storage_dtype, tensor_map

BLOCK = 128  # numbers of a row that share a scale
FORMATS = {"e4m3": ("uint8", 448.0), "int8": ("int8", 127.0)}
_EIGHTS = BLOCK // 8
_WORDS = BLOCK // 2  # of a block's row, 16 bits each
_ALL = 0xFFFFFFFF
_SMALLEST = 2.0**-120  # of a scale; below, its reciprocal would be infinite


@functools.cache
def quantising(activation: str | None, biased: bool, form: str) -> Ending:
    """Make the ending that quantises.

    Parameters
    ----------
    activation : {None, "gelu", "gelu_tanh", "silu", "silu_mul"}
    biased : bool
    form : {"e4m3", "int8"}
    """
    gated, (_, most) = activation == GATED, FORMATS[form]
    narrow = ptx.to_e4m3_pair if form == "e4m3" else ptx.to_int8_pair
    INVERSE = 1 / most

    def make(storage: str, tile: Tile) -> tuple[Any, Any]:
        BLOCKS = tile.columns // (2 if gated else 1) // BLOCK
        ROOMS_BEGIN = tile.stages * tile.stage
        finish = finishing(activation, biased, False, True, tile.columns // 4, 32)
        EIGHTS, NUMBERS, bring, pair = finish

        @cuda.jit(device=True, forceinline=True)
        def finish_eight(i, operands):
            """Finish what a thread has of eight columns, where it is; and keep the largest."""
            acc, kept, largest, block, c, row, column, bias, scales = operands
            i += _EIGHTS * block
            if i % EIGHTS == 0:
                bring(kept, i, row, column + 8 * i, c, bias, scales)
            for h in range(2):
                low, high = pair(acc, i, h, kept)
                acc[4 * i + 2 * h], acc[4 * i + 2 * h + 1] = low, high
                largest[h] = max(largest[h], max(abs(low), abs(high)))

        @cuda.jit(device=True, forceinline=True)
        def put_eight(e, operands):
            """Round a thread's numbers of eight columns, and put them into the room."""
            acc, inverse, block, words, begin, swizzle = operands
            piece = begin + (e // 2 ^ swizzle) * 8
            for h in range(2):
                at = 4 * (_EIGHTS * block + e) + 2 * h
                word = narrow(acc[at] * inverse[h], acc[at + 1] * inverse[h])
                words[piece + 8 * h * _WORDS + e % 2 * 4] = word
                # Nobody reads them again, but the next tile's first product seems to.
                acc[at], acc[at + 1] = float32(0), float32(0)

        finish_all, put_all = unrolled(_EIGHTS, finish_eight), unrolled(_EIGHTS, put_eight)

        @cuda.jit(device=True, forceinline=True)
        def store_block(block, operands):
            """Store a thread's share of a block: its bytes, and with four threads the scales."""
            acc, kept, words, rooms, c, c_map, first_row, first_column, bias, scales = operands
            number, room = cuda.threadIdx.x // GROUP_THREADS, rooms + block * ROOM
            row, column = place_of_thread(first_row, first_column)
            largest, inverse = cuda.local.array(2, float32), cuda.local.array(2, float32)
            largest[0], largest[1] = float32(0), float32(0)
            finish_all(0, (acc, kept, largest, block, c, row, column, bias, scales))
            for h in range(2):
                of_two = max(largest[h], cuda.shfl_xor_sync(_ALL, largest[h], 1))
                scale = max(of_two, cuda.shfl_xor_sync(_ALL, of_two, 2)) * float32(INVERSE)
                inverse[h] = ptx.reciprocal(scale) if scale > float32(_SMALLEST) else float32(0)
                here = first_column + BLOCK * block
                if cuda.threadIdx.x % 4 == 0 and row + 8 * h < c.shape[0] and here < c.shape[1]:
                    scales[row + 8 * h, here // BLOCK] = scale
            await_room(number, block)
            lane, warp = cuda.threadIdx.x % 32, cuda.threadIdx.x % GROUP_THREADS // 32
            begin = room + (16 * warp + lane // 4) * _WORDS + lane % 4
            # Of both rows of the thread, for 8 lie between them. And of each tile anew: places that
            # are the same for all would be kept in registers from one tile to the next.
            put_all(0, (acc, inverse, block, words, begin, row & 7))
            send(words, room, c_map, first_row, (first_column + BLOCK * block) // 2, number)

        store_all = unrolled(BLOCKS, store_block)

        @cuda.jit(device=True, forceinline=True)
        def store(acc, c, first_row, first_column, c_map, bias, scales):
            """Store the share of this thread's warpgroup, which begins there."""
            words, kept = cuda.shared.array(0, types.uint16), cuda.local.array(NUMBERS, float32)
            number = cuda.threadIdx.x // GROUP_THREADS
            rooms = first_place(words) + ROOMS_BEGIN + (number - 1) * BLOCKS * ROOM
            operands = acc, kept, words, rooms, c, c_map, first_row, first_column, bias, scales
            store_all(0, operands)

        return store, await_all_rooms

    return Ending(make, gated)


def plan_quantised(
    x: Any,
    weight: Any,
    out: Any,
    halves: Any,
    scales: Any,
    bias: Any = None,
    activation: str | None = None,
    form: str = "e4m3",
) -> tuple[Launch, ...]:
    """Plan a product that quantises.

    Parameters
    ----------
    x, weight, out, scales, bias, activation, form
        As of :func:`gemm_quantised`, checked.
    halves : float16 [M, F / 2]
        `out`, two numbers at a time.
    """
    tile, ending = LARGE, quantising(activation, bias is not None, form)
    maps = tensor_map(x, tile.rows), tensor_map(weight, ending.columns(tile))
    how, (bias, _) = tensor_map(halves, GROUP_ROWS), present(bias, None, x, out)
    args = (*maps, x.shape[1], out, TOGETHER, how, bias, scales)
    threads = GROUP_THREADS * (1 + tile.groups)
    rooms = ending.columns(tile) // BLOCK * tile.groups
    shared_bytes = tile.shared_bytes + 2 * ROOM * rooms
    kernel = specialised(storage_dtype(x), tile, ending)
    return (Launch(kernel, (blocks_for(tile, ending, out),), (threads,), args, shared_bytes),)


def gemm_quantised(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    form: str = "e4m3",
    stream: Any = None,
) -> tuple[Any, Any]:
    """Multiply by a weight matrix on an H100 or H200, and quantise blocks of 128 numbers.

    Where a number is not finite, what its block says is of no use: the largest is not known.

    Parameters
    ----------
    x : float16 or bfloat16 [M, K]
        Contiguous, on a device, at a multiple of 16 bytes; K is a multiple of 8.
    weight : [N, K]
        Like `x`.
    bias : [N], optional
    activation : {"gelu", "gelu_tanh", "silu", "silu_mul"}, optional
    form : {"e4m3", "int8"}
    stream : cupy.cuda.Stream or Numba stream, optional

    Returns
    -------
    out : uint8 or int8 [M, N] or [M, F]
        The numbers over their scales; uint8 are the bits of e4m3.
    scales : float32 [M, N / 128] or [M, F / 128]

    Raises
    ------
    DeviceError
        If the GPU is of another compute capability than 9.0.
    KernelArgumentError
        If an argument has another rank, shape, dtype, layout or device, the copy engine cannot
        address `x` or `weight`, or the result's rows are no whole blocks.
    """
    checks.choice("form", form, FORMATS)
    gemm.checked(x, weight, bias, activation, None, None)
    require_hopper(x)
    M, columns = len(x), len(weight) // (2 if activation == GATED else 1)
    if columns % BLOCK:
        raise KernelArgumentError(
            f"The result has {columns} columns, no multiple of {BLOCK}.",
            "Quantise it by another kernel: blocks of 128 numbers share a scale.",
        )
    out = empty((M, columns), FORMATS[form][0], like=x)
    scales = empty((M, columns // BLOCK), "float32", like=x)
    if out.size:
        require_addressable(x, weight)
        halves = out.view("float16")
        operands = x, weight, out, halves, scales, bias, activation, form
        launch_all(plan_quantised(*operands), stream)
    return out, scales
