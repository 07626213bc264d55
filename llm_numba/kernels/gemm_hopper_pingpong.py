"""The Hopper kernel whose consumers take turns: one multiplies, the other finishes its tile.

As long as both consumers work on one tile they come to its end together, and the tensor cores
stand still while sums are rounded and stored. Here each has tiles of its own, one behind the
other::

    producer      slabs of tile 0 | slabs of tile 1 | slabs of tile 2 | slabs of tile 3 ...
    consumer 0    multiply 0      | store 0         | multiply 2      | store 2
    consumer 1    wait for turn   | multiply 1      | store 1         | multiply 3
    tensor cores  ########################################################################

*Whose turn* it is says a barrier for each consumer, at which the other arrives when all slabs of
its tile are there, and before it begins the products of the last. So the tensor cores have enough
to do until those of the next tile come. It is more than a courtesy: who waits for the parity of a
stage must know that the phase before is over, and only the other consumer has seen it.

*How large a tile.* One consumer alone must have enough products for all that is brought: nobody
shares its operands. Of a tile of 128 x 192 it holds 192 sums a thread, in two accumulators of 64
rows. For that a producer's thread keeps 24 registers, and a consumer's has 240. Bytes for a slab,
over the cycles of its products, of which shared memory can move 128 a cycle in all::

    tile of           both, 128 x 256   each, 64 x 256   each, 128 x 128   each, 128 x 192
    cycles                      1,024              512               512               768
    brought                    48 KiB           40 KiB            32 KiB            40 KiB
    read by wgmma              80 KiB           40 KiB            48 KiB            64 KiB
    bytes a cycle                 128              160               160               139

*Nothing else between slabs.* No other consumer's products hide what happens there. So where the
next slab lies is carried along, not computed anew, and all that depends on the consumer is the
same number in all of a warp, which the compiler then keeps in registers of the warp.

Source: NVIDIA, "CUTLASS", "Efficient GEMM in CUDA", "Hopper warp specialization", ping-pong kernel.
"""

import functools
import math
from typing import Any

from numba import cuda, float32, int32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    DEPTH,
    GROUP_ROWS,
    GROUP_THREADS,
    SLAB,
    STORED,
    Ending,
    Tile,
    cornering,
    first_place,
    foresee_nothing,
    silent,
)
from llm_numba.kernels.gemm_hopper_specialised import producing
from llm_numba.kernels.gemm_hopper_stored import BY_ENGINE, ROOM, ROOMS
from llm_numba.kernels.gemm_plans import present
from llm_numba.runtime import Launch, storage_dtype, tensor_map
from llm_numba.runtime.room import room_of

CONSUMERS = 2
THREADS = GROUP_THREADS * (1 + CONSUMERS)
OWN = Tile(128, 192, 4)  # of each consumer
TOGETHER = 16  # rows of tiles that are gone through together
_OF_PRODUCER, _OF_CONSUMER = 24, 240  # registers of a thread, in multiples of 8
_WARPS = GROUP_THREADS // 32


@cuda.jit(device=True)
def _consumer():
    """Return which consumer this is, the same number in all of a warp as the compiler sees it."""
    return int32(cuda.shfl_sync(0xFFFFFFFF, cuda.threadIdx.x // GROUP_THREADS - 1, 0))


@cuda.jit(device=True)
def _arrive(barriers, i):
    """Arrive, one thread of each warp."""
    if cuda.threadIdx.x % 32 == 0:
        ptx.mbarrier_arrive(barriers, i)


@cuda.jit(device=True)
def _await(barriers, i, parity):
    """Wait for the phase of a parity."""
    while not ptx.mbarrier_test(barriers, i, parity):
        pass


def _beginning(tile: Tile) -> Any:
    """Make what begins the products of a slab, and commits them."""
    COLUMNS, STEPS, IN_BYTES = tile.columns, SLAB // DEPTH, 2 * DEPTH // 16
    LOWER, B_BEGINS = 2 * GROUP_ROWS * SLAB // 16, 2 * tile.rows * SLAB // 16

    @cuda.jit(device=True, forceinline=True)
    def begin(tiles, stage, upper, lower, accumulate):
        """Begin upper, lower (+)= A [128, 64] B [columns, 64]^T, of the stage that is described."""
        ptx.wgmma_fence()
        for i in range(STEPS):
            a = stage + uint64(i * IN_BYTES)
            b = a + uint64(B_BEGINS)
            ptx.wgmma(tiles, upper, a, b, COLUMNS, accumulate or i > 0)
            ptx.wgmma(tiles, lower, a + uint64(LOWER), b, COLUMNS, accumulate or i > 0)
        ptx.wgmma_commit()

    return begin


def _multiplying(tile: Tile) -> Any:
    """Make what multiplies all slabs of a tile, in this consumer's turn."""
    STAGES, UNITS = tile.stages, tile.stage_bytes // 16
    begin = _beginning(tile)

    @cuda.jit(device=True, forceinline=True)
    def multiply_all(tiles, full, free, turns, upper, lower, slabs, count, me):
        """Add up the products of slabs from a running number on, at least one."""
        stage, parity = int32(count % STAGES), int32(count // STAGES & 1)
        here = ptx.matrix_descriptor(tiles, first_place(tiles)) + uint64(stage * UNITS)
        before, left = int32(0), slabs
        while left > 0:
            _await(full, stage, parity)
            if left == 1:
                _arrive(turns, 1 - me)
            begin(tiles, here, upper, lower, left < slabs)
            if left < slabs:
                ptx.wgmma_wait(1)
                _arrive(free, before)
            before, stage, here = stage, int32(stage + 1), here + uint64(UNITS)
            if stage == STAGES:
                stage, parity, here = int32(0), int32(parity ^ 1), here - uint64(STAGES * UNITS)
            left = int32(left - 1)
        ptx.wgmma_wait(0)
        _arrive(free, before)

    return multiply_all


def _consuming(storage: str, tile: Tile, ending: Ending) -> Any:
    """Make what each consumer does."""
    SUMS, (store, finish) = tile.columns // 2, ending.make(storage, tile)
    multiply_all, corner_of = _multiplying(tile), cornering(tile, ending)
    foresee = ending.foreseeing(tile) if ending.foreseeing else foresee_nothing

    @cuda.jit(device=True)
    def consume(tiles, full, free, turns, slabs, down, across, together, c, how, bias, beside):
        """Multiply and store every second tile of this block."""
        upper, lower = cuda.local.array(SUMS, float32), cuda.local.array(SUMS, float32)
        me = _consumer()
        count, parity = int32(me * slabs), int32(me ^ 1)
        step = CONSUMERS * cuda.gridDim.x
        for tile in range(cuda.blockIdx.x + me * cuda.gridDim.x, down * across, step):
            row, column = corner_of(tile, down, across, together)
            row_of_lower = row + GROUP_ROWS
            foresee(row, column, c, beside)
            foresee(row_of_lower, column, c, beside)
            _await(turns, me, parity)
            multiply_all(tiles, full, free, turns, upper, lower, slabs, count, me)
            store(upper, c, row, column, how, bias, beside)
            store(lower, c, row_of_lower, column, how, bias, beside)
            count += int32(CONSUMERS * slabs)
            parity ^= int32(1)
        finish()

    return consume


@functools.cache
def pingpong(storage: str, tile: Tile, ending: Ending, /) -> Any:
    """Make the kernel; the tile is that of one consumer.

    What is new: the end of a tile costs nothing as long as it is shorter than the products of the
    next.
    """
    ROWS, WIDTH, STAGES = tile.rows, ending.columns(tile), tile.stages
    FORM = STORED[storage]
    produce, consume = producing(tile, ending, silent), _consuming(storage, tile, ending)

    @cuda.jit(launch_bounds=(THREADS, 1))
    def gemm_pingpong(a_map, b_map, K, c, together, how, bias, beside):
        """C [M, N] = A [M, K] B [N, K]^T, as of `specialised`."""
        a_map, b_map, how = ptx.parameter(a_map), ptx.parameter(b_map), ptx.parameter(how)
        tiles = cuda.shared.array(0, FORM)
        full = cuda.shared.array(STAGES, uint64)
        free = cuda.shared.array(STAGES, uint64)
        turns = cuda.shared.array(CONSUMERS, uint64)
        slabs = int32((K + SLAB - 1) // SLAB)
        down, across = (c.shape[0] + ROWS - 1) // ROWS, (c.shape[1] + WIDTH - 1) // WIDTH
        if cuda.threadIdx.x == 0:
            for s in range(STAGES):
                ptx.mbarrier_init(full, s, 1)
                ptx.mbarrier_init(free, s, _WARPS)
            for i in range(CONSUMERS):
                ptx.mbarrier_init(turns, i, _WARPS)
            ptx.fence_async()
        cuda.syncthreads()
        if cuda.threadIdx.x < GROUP_THREADS:
            ptx.give_registers(_OF_PRODUCER)
            if cuda.threadIdx.x == 0:
                produce(tiles, full, free, a_map, b_map, slabs, down, across, together, c.shape[1])
        else:
            ptx.take_registers(_OF_CONSUMER)
            consume(tiles, full, free, turns, slabs, down, across, together, c, how, bias, beside)

    return gemm_pingpong


def shared_bytes(tile: Tile) -> int:
    """Return the dynamic shared memory of a block: stages, and rooms of each consumer."""
    return tile.shared_bytes + 2 * CONSUMERS * ROOMS * ROOM


def plan_pingpong(
    x: Any,
    weight: Any,
    out: Any,
    tile: Tile = OWN,
    ending: Ending = BY_ENGINE,
    bias: Any = None,
    residual: Any = None,
) -> tuple[Launch, ...]:
    """Plan a product whose tiles the copy engine stores.

    Parameters
    ----------
    x, weight, out : array
        [M, K], [N, K] and [M, N] or [M, F], whose rows are multiples of 16 bytes.
    tile : Tile
        Of a consumer: 128 rows.
    ending : Ending
        That stores by the engine, with the bias and the residual that follow.
    bias, residual : array, optional
    """
    width = ending.columns(tile)
    tiles = math.ceil(out.shape[0] / tile.rows) * math.ceil(out.shape[1] / width)
    blocks = min(tiles, room_of(out).multiprocessors)
    maps, how = (tensor_map(x, tile.rows), tensor_map(weight, width)), tensor_map(out, GROUP_ROWS)
    args = (*maps, x.shape[1], out, TOGETHER, how, *present(bias, residual, x, out))
    kernel = pingpong(storage_dtype(x), tile, ending)
    return (Launch(kernel, (blocks,), (THREADS,), args, shared_bytes(tile)),)
