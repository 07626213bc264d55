"""The Hopper kernel whose warpgroups have different trades: one brings slabs, the others multiply.

In the steps before, all threads of a block meet once a slab, and the tensor cores stand still until
they have. Nobody needs all the others. Who multiplies needs the bytes of its slab, and who brings
needs a stage that everybody has read. So there are two barriers for each stage, and no other::

    producer              wait FREE s | announce, copy | wait FREE s+1 | ...
                                              |
    full[s]       ............................+---> complete when the bytes are there
    consumers                                      wait FULL s | multiply | one slab later:
                                                                          | arrive FREE s
    free[s]       <--- complete when all 8 warps have arrived ------------+

The producer runs ahead as far as there are stages. A consumer begins a slab's products before it
waits for those of the slab before, so the tensor cores always have a batch to go on with; only then
does it free the earlier stage. The two consumers are never in step: while one stores, the other
multiplies.

The producer's 128 threads need no registers, and a block has 65,536: 168 for each of 384 threads.
``setmaxnreg`` moves them to where the sums are: 40 for the producer, 232 for the consumers. So a
consumer holds 64 x 256 sums, 128 registers of each thread, and a tile is 128 x 256. For each slab
of it 384 rows are read from L2 where 128 x 128 takes 256 for half of the products: a quarter less.

A block goes through several tiles, if there are more tiles than blocks: the n-th block takes tiles
n, n + blocks, and so on. While its consumers store a tile, its producer brings the next.

Sources: NVIDIA, "CUTLASS", "Efficient GEMM in CUDA", "Warp specialization"; P. Arora, "fast.cu",
2024; "PTX ISA", ``setmaxnreg``, ``mbarrier``.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import (
    ASKED,
    BY_THREADS,
    GROUP_THREADS,
    GROUP_WARPS,
    HAS_PLACE,
    HAS_SLAB,
    MULTIPLIED,
    OF_CONSUMER,
    OF_PRODUCER,
    SLAB,
    STORED,
    STORED_TILE,
    SUMMED,
    WANTS_PLACE,
    WANTS_SLAB,
    Behind,
    Ending,
    Tile,
    cornering,
    describing,
    first_place,
    foresee_nothing,
    freeing,
    multiplying,
    place_of,
    share,
    silent,
    staging,
)


def _behind(tile: Tile, ending: Ending) -> Behind:
    """Return what the producer brings behind a tile's slabs."""
    return ending.behind(tile) if ending.behind else Behind(0, _bring_nothing)


@cuda.jit(device=True)
def _bring_nothing(tiles, full, free, count, beside, row, column):
    """Bring nothing behind a tile's slabs."""


@cuda.jit(device=True)
def _in_memory(full, free, count, beside):
    """Return what lies beside C, for who reads it there."""
    return beside


@cuda.jit(device=True)
def _in_slabs(full, free, count, beside):
    """Return which slabs are what lies beside C, and the barriers that tell of them."""
    return full, free, count


def _producing(tile: Tile, ending: Ending, note: Any) -> Any:
    """Make what the producer's only busy thread does."""
    ROWS, stage_of = tile.rows, staging(tile)
    STAGE, B_BEGINS, BYTES = tile.stage, tile.rows * SLAB, tile.stage_bytes
    WIDTH, GATED = ending.columns(tile), ending.gated
    UP_BEGINS = B_BEGINS + WIDTH * SLAB
    BEHIND, bring_behind = _behind(tile, ending)

    @cuda.jit(device=True)
    def produce(tiles, full, free, a_map, b_map, slabs, down, across, together, up, beside):
        """Bring all slabs of all tiles of this block, one after the other."""
        first = first_place(tiles)
        count = int32(0)
        for tile in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
            row, column = place_of(tile, down, across, together)
            for slab in range(slabs):
                stage, turn = stage_of(count)
                at, k = first + stage * STAGE, slab * SLAB
                note(WANTS_PLACE, count)
                while not ptx.mbarrier_test(free, stage, turn & 1 ^ 1):
                    pass
                note(HAS_PLACE, count)
                ptx.mbarrier_expect(full, stage, BYTES)
                ptx.tma_load_2d(tiles, at, a_map, k, row * ROWS, full, stage)
                ptx.tma_load_2d(tiles, at + B_BEGINS, b_map, k, column * WIDTH, full, stage)
                if GATED:
                    row_of_up = up + column * WIDTH
                    ptx.tma_load_2d(tiles, at + UP_BEGINS, b_map, k, row_of_up, full, stage)
                note(ASKED, count)
                count += int32(1)
            bring_behind(tiles, full, free, count, beside, row * ROWS, column * WIDTH)
            count += int32(BEHIND)

    return produce


def taking(tile: Tile, note: Any, blocks: int = 1, storage: str | None = None) -> tuple[Any, Any]:
    """Make what a consumer does with a slab, and with the last of a tile.

    Parameters
    ----------
    tile : Tile
    note : device function
    blocks : int
        Of a cluster, whose producers all wait until a stage is free in this block.
    storage : str, optional
        As of :func:`~llm_numba.kernels.gemm_hopper_pieces.multiplying`.
    """
    stage_of, describe = staging(tile), describing(tile)
    multiply, set_free = multiplying(tile, storage), freeing(tile, blocks)

    @cuda.jit(device=True)
    def take(tiles, full, free, acc, count, accumulate):
        """Begin the products of a slab once it is there; those before have ended, and are free."""
        stage, turn = stage_of(count)
        note(WANTS_SLAB, count)
        while not ptx.mbarrier_test(full, stage, turn & 1):
            pass
        note(HAS_SLAB, count)
        a, b = describe(tiles, stage)
        multiply(tiles, a, b, acc, accumulate)
        ptx.wgmma_wait(1)
        note(MULTIPLIED, count)
        if accumulate:
            set_free(free, count - 1)

    @cuda.jit(device=True)
    def leave(free, count):
        """Wait for the products of a tile's last slab, which is the one before `count`."""
        ptx.wgmma_wait(0)
        set_free(free, count - 1)
        note(SUMMED, count)

    return take, leave


def consuming(storage: str, tile: Tile, ending: Ending, note: Any, blocks: int = 1) -> Any:
    """Make what each consumer does; `blocks` as of :func:`taking`."""
    BLOCKS, (store, finish) = blocks, ending.make(storage, tile)
    corner_of = cornering(tile, ending, blocks)
    take, leave = taking(tile, note, blocks, storage)
    foresee = ending.foreseeing(tile) if ending.foreseeing else foresee_nothing
    BEHIND, beside_of = _behind(tile, ending).slabs, _in_slabs if ending.behind else _in_memory

    @cuda.jit(device=True)
    def consume(tiles, full, free, acc, slabs, down, across, together, c, how, bias, beside):
        """Multiply all slabs of all tiles of this block, and store each tile."""
        count = int32(0)
        for tile in range(cuda.blockIdx.x // BLOCKS, down * across, cuda.gridDim.x // BLOCKS):
            row, column = corner_of(tile, down, across, together)
            foresee(row + share(), column, c, beside)
            for slab in range(slabs):
                take(tiles, full, free, acc, count, slab > 0)
                count += int32(1)
            leave(free, count)
            beside_tile = beside_of(full, free, count, beside)
            store(acc, c, row + share(), column, how, bias, beside_tile)
            count += int32(BEHIND)
            note(STORED_TILE, count)
        finish()

    return consume


@functools.cache
def specialised(
    storage: str, tile: Tile, ending: Ending = BY_THREADS, note: Any = silent, /
) -> Any:
    """Make the kernel; `note` is told of ``ASKED`` and its like, for who draws them over time.

    What is new: nobody waits for all. Predicted, of tiles of 128 x 128 and a block for each: 1.15
    times ``copy_engine``, the gap between two batches of each slab. Of tiles of 128 x 256: 1.1
    times that, for shared memory is read less often. Of as many blocks as there are SMs: 1.1 times
    again, for no block begins with empty stages while another on its SM stores. By the engine: see
    :mod:`~llm_numba.kernels.gemm_hopper_stored`; 1.02 times.
    """
    ROWS, WIDTH, STAGES = tile.rows, ending.columns(tile), tile.stages
    THREADS, FORM = GROUP_THREADS * (1 + tile.groups), STORED[storage]
    SUMS, WARPS = tile.columns // 2, GROUP_WARPS * tile.groups
    produce = _producing(tile, ending, note)
    if ending.overlaps:
        consume = ending.make(storage, tile, note)
    else:
        consume = consuming(storage, tile, ending, note)

    @cuda.jit(launch_bounds=(THREADS, 1))
    def gemm_specialised(a_map, b_map, K, c, together, how, bias, beside):
        """C [M, N] = A [M, K] B [N, K]^T, by any number of blocks; the maps are of A and B.

        How to store is a map of C for the engine, and else whether neighbours share a word. Bias,
        and what lies beside C, are the ending's: of no elements where it has none. The latter may
        be a map, too.
        """
        a_map, b_map = ptx.parameter(a_map), ptx.parameter(b_map)
        how, beside = ptx.parameter(how), ptx.parameter(beside)
        tiles = cuda.shared.array(0, FORM)
        full = cuda.shared.array(STAGES, uint64)
        free = cuda.shared.array(STAGES, uint64)
        slabs = (K + SLAB - 1) // SLAB
        down, across = (c.shape[0] + ROWS - 1) // ROWS, (c.shape[1] + WIDTH - 1) // WIDTH
        if cuda.threadIdx.x == 0:
            for s in range(STAGES):
                ptx.mbarrier_init(full, s, 1)
                ptx.mbarrier_init(free, s, WARPS)
            ptx.fence_async()
        cuda.syncthreads()
        if cuda.threadIdx.x < GROUP_THREADS:
            ptx.give_registers(OF_PRODUCER)
            if cuda.threadIdx.x == 0:
                N = c.shape[1]
                produce(tiles, full, free, a_map, b_map, slabs, down, across, together, N, beside)
        else:
            ptx.take_registers(OF_CONSUMER)
            acc = cuda.local.array(SUMS, float32)
            consume(tiles, full, free, acc, slabs, down, across, together, c, how, bias, beside)

    return gemm_specialised
