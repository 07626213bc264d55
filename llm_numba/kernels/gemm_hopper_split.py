"""The Hopper kernel for few tiles: the blocks of a cluster share the K of one.

A product of 512 x 4096 has 64 tiles of 128 x 256, and an H100 has 132 SMs: half of them stand
still. Smaller tiles are more, but bring more bytes for each product. Here S blocks, a cluster, take
the same tile, and 1/S of K each. In the end each has a whole tile of sums, of its part of K. They
meet to add them, and each finishes 1/S of the columns.

Whose columns these are is arranged from the beginning: a block brings the rows of B that are its
own columns first, then those of the next block, and so on. So its own sums are in the same
registers in all blocks, and so are those for the block p places on::

              part of K     columns in a block's registers, S = 4: whose they are
    block 0   0 to 1/4      | 0 | 1 | 2 | 3 |
    block 1   1/4 to 1/2    | 1 | 2 | 3 | 0 |
    block 2   1/2 to 3/4    | 2 | 3 | 0 | 1 |
    block 3   3/4 to 1      | 3 | 0 | 1 | 2 |
                     p =      0   1   2   3

    lay down  p = 1, 2, 3 in shared memory, where the stages were
    meet      all have laid down theirs
    add       to p = 0 what the block before has of p = 1, the one before that of p = 2 ...
    meet      all have read theirs: what lies there is needed no longer
    finish    128 x 256 / S of C, by the ending of any other tile

At any time each block reads from another one, so nobody's memory is asked by all. A thread lays 16
bytes down beside those of its neighbour, and reads what the same thread of another block laid down,
which has the same rows and columns: no banks conflict, and nothing has to change places. The order
of the parts is the same every time, and so are the bits.

It costs to move (S - 1) / S of a tile's float32 from SM to SM, and two meetings.

Sources: NVIDIA, "CUTLASS", "Efficient GEMM in CUDA", "Split-K"; "CUDA C++ Programming Guide",
"Distributed Shared Memory"; "PTX ISA", ``ld.shared::cluster``.
"""

import functools
import math
from typing import Any

from numba import cuda, float32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper import TOGETHER, is_paired, tiles_of
from llm_numba.kernels.gemm_hopper_epilogue import GATED, epilogue
from llm_numba.kernels.gemm_hopper_pieces import (
    GROUP_ROWS,
    GROUP_THREADS,
    GROUP_WARPS,
    OF_CONSUMER,
    OF_PRODUCER,
    SLAB,
    STORED,
    Ending,
    Tile,
    cornering,
    first_place,
    foresee_nothing,
    share,
    silent,
    staging,
)
from llm_numba.kernels.gemm_hopper_specialised import taking
from llm_numba.kernels.gemm_hopper_stored import BOX_COLUMNS, staging_bytes
from llm_numba.kernels.gemm_plans import present
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import Launch, starts_early, storage_dtype, tensor_map
from llm_numba.runtime.tensor_maps import why_no_map
from llm_numba.simulator.clusters import in_clusters

# Of an H100, in microseconds: a slab of a tile, by how many blocks share its K. These cuts were the
# fastest in trials.
SPLIT_SLAB = {(Tile(128, 128, 6), 2): 0.44, (Tile(128, 192, 5), 4): 0.775}
# How many clusters, by their blocks, the driver finds room for on the 132 SMs of an H100. These lie
# in groups that are no multiples of 4: only two blocks have room everywhere.
_ROOM, _SMS = {2: 66, 4: 30}, 132


def part_of(tile: Tile, blocks: int) -> Tile:
    """Return what a block of the cluster finishes of a tile.

    Parameters
    ----------
    tile : Tile
        Whose columns are eights for each block; with a gate, sixteens.
    blocks : int
        Of a cluster, 2 to 8.
    """
    return tile._replace(columns=tile.columns // blocks)


@cuda.jit(device=True)
def _meet():
    """Wait for all threads of the cluster, whatever their trade."""
    ptx.cluster_sync()


def _bringing(tile: Tile, ending: Ending, blocks: int) -> tuple[Any, Any]:
    """Make what asks for a slab's rows of B, those of the block's own columns first; and of A."""
    STAGE, B_BEGINS, BYTES, BLOCKS = tile.stage, tile.rows * SLAB, tile.stage_bytes, blocks
    PART, GATED = part_of(tile, blocks).columns, ending.gated
    WIDTH = ending.columns(part_of(tile, blocks))
    stage_of = staging(tile)

    @cuda.jit(device=True)
    def bring_b(tiles, full, b_map, count, slab, column, up):
        """Announce a slab, and bring B, a box for the columns of each block."""
        stage, _ = stage_of(count)
        at, rank = first_place(tiles) + stage * STAGE + B_BEGINS, ptx.cluster_rank()
        ptx.mbarrier_expect(full, stage, BYTES)
        for p in range(BLOCKS):
            to, row = at + p * PART * SLAB, column + (rank + p) % BLOCKS * WIDTH
            ptx.tma_load_2d(tiles, to, b_map, slab * SLAB, row, full, stage)
            if GATED:
                up_to = to + WIDTH * SLAB
                ptx.tma_load_2d(tiles, up_to, b_map, slab * SLAB, up + row, full, stage)

    @cuda.jit(device=True)
    def bring_a(tiles, full, a_map, count, slab, row):
        """Bring A."""
        stage, _ = stage_of(count)
        at = first_place(tiles) + stage * STAGE
        ptx.tma_load_2d(tiles, at, a_map, slab * SLAB, row, full, stage)

    return bring_b, bring_a


def _meeting(tile: Tile, blocks: int) -> tuple[Any, Any]:
    """Make what lays down a thread's sums for the other blocks, and what adds theirs to its own."""
    THREADS, OTHERS = GROUP_THREADS * tile.groups, blocks - 1
    EIGHTS, BLOCKS = part_of(tile, blocks).columns // 8, blocks

    @cuda.jit(device=True, forceinline=True)
    def lay_eight(i, operands):
        """Lay down what a thread has of eight columns: two of each of two rows."""
        acc, passing, thread = operands
        k = 4 * (EIGHTS + i)
        quad = acc[k], acc[k + 1], acc[k + 2], acc[k + 3]
        ptx.store16(passing, 4 * (i * THREADS + thread), quad)

    @cuda.jit(device=True, forceinline=True)
    def add_eight(i, operands):
        """Add what one other block has of eight columns: one block after the other."""
        acc, passing, thread, rank = operands
        eight, p = i // OTHERS, i % OTHERS + 1
        at = 4 * (((p - 1) * EIGHTS + eight) * THREADS + thread)
        quad = ptx.cluster_load16(passing, at, (rank + BLOCKS - p) % BLOCKS)
        for e in range(4):
            acc[4 * eight + e] += quad[e]

    return unrolled(OTHERS * EIGHTS, lay_eight), unrolled(OTHERS * EIGHTS, add_eight)


def _consuming(storage: str, tile: Tile, ending: Ending, blocks: int) -> Any:
    """Make what each consumer does."""
    THREADS, WIDTH = GROUP_THREADS * tile.groups, ending.columns(part_of(tile, blocks))
    (take, _), (lay, add) = taking(tile, silent), _meeting(tile, blocks)
    store, finish = ending.make(storage, part_of(tile, blocks))
    foreseeing = ending.foreseeing
    foresee = foreseeing(part_of(tile, blocks)) if foreseeing else foresee_nothing

    @cuda.jit(device=True)
    def consume(tiles, full, free, acc, slabs, row, column, c, how, bias, beside):
        """Multiply this block's slabs, and finish its columns of the tile that begins there."""
        passing, rank = cuda.shared.array(0, float32), ptx.cluster_rank()
        row, column = row + share(), column + rank * WIDTH
        thread = cuda.threadIdx.x - GROUP_THREADS
        foresee(row, column, c, beside)
        take(tiles, full, free, acc, 0, False)  # there always is one
        for slab in range(1, slabs):
            take(tiles, full, free, acc, slab, True)
        ptx.wgmma_wait(0)
        ptx.barrier_sync(1, THREADS)  # the other consumer has read the stages, too
        lay(0, (acc, passing, thread))
        _meet()
        add(0, (acc, passing, thread, rank))
        _meet()
        store(acc, c, row, column, how, bias, beside)
        finish()

    return consume


@functools.cache
def split(storage: str, tile: Tile, ending: Ending, blocks: int, /) -> Any:
    """Make the kernel, of a cluster of so many blocks for each tile.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    tile : Tile
    ending : Ending
        One that does not overlap: a block has one tile.
    blocks : int
        Of a cluster, 2 to 8; see :func:`part_of`.
    """
    ROWS, WIDTH, STAGES, BLOCKS = tile.rows, ending.columns(tile), tile.stages, blocks
    THREADS, FORM = GROUP_THREADS * (1 + tile.groups), STORED[storage]
    SUMS, WARPS = tile.columns // 2, GROUP_WARPS * tile.groups
    (bring_b, bring_a), stage_of = _bringing(tile, ending, blocks), staging(tile)
    corner_of, consume = cornering(tile, ending), _consuming(storage, tile, ending, blocks)

    @cuda.jit(device=True)
    def produce(tiles, full, free, a_map, b_map, first, slabs, row, column, up):
        """Bring what the first stages lack, and then all others of this block's slabs."""
        for count in range(slabs):
            stage, turn = stage_of(count)
            if count >= STAGES:
                while not ptx.mbarrier_test(free, stage, turn & 1 ^ 1):
                    pass
                bring_b(tiles, full, b_map, count, first + count, column, up)
            bring_a(tiles, full, a_map, count, first + count, row)

    @starts_early
    @in_clusters(blocks)
    @cuda.jit(launch_bounds=(THREADS, 1))
    def gemm_split(a_map, b_map, K, c, together, how, bias, beside):
        """C [M, N] = A [M, K] B [N, K]^T, a cluster for each tile; the map of B is of a part's."""
        a_map, b_map, how = ptx.parameter(a_map), ptx.parameter(b_map), ptx.parameter(how)
        tiles = cuda.shared.array(0, FORM)
        full, free = cuda.shared.array(STAGES, uint64), cuda.shared.array(STAGES, uint64)
        down, across = (c.shape[0] + ROWS - 1) // ROWS, (c.shape[1] + WIDTH - 1) // WIDTH
        row, column = corner_of(cuda.blockIdx.x // BLOCKS, down, across, together)
        all_slabs, up = (K + SLAB - 1) // SLAB, c.shape[1]
        span = (all_slabs + BLOCKS - 1) // BLOCKS
        first = ptx.cluster_rank() * span
        # A block with nothing left brings one slab that lies beyond K: zeros.
        slabs = max(1, min(span, all_slabs - first))
        if cuda.threadIdx.x == 0:
            for s in range(STAGES):
                ptx.mbarrier_init(full, s, 1)
                ptx.mbarrier_init(free, s, WARPS)
            ptx.fence_async()
            for s in range(min(STAGES, slabs)):
                bring_b(tiles, full, b_map, s, first + s, column, up)
        # When all blocks have come here, the next kernel's take the places that are free.
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        cuda.syncthreads()
        if cuda.threadIdx.x < GROUP_THREADS:
            ptx.give_registers(OF_PRODUCER)
            if cuda.threadIdx.x == 0:
                produce(tiles, full, free, a_map, b_map, first, slabs, row, column, up)
            cuda.syncwarp()
            _meet()
            _meet()
        else:
            ptx.take_registers(OF_CONSUMER)
            acc = cuda.local.array(SUMS, float32)
            consume(tiles, full, free, acc, slabs, row, column, c, how, bias, beside)

    return gemm_split


def plan_split(
    tile: Tile,
    blocks: int,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
) -> tuple[Launch, ...]:
    """Plan a product with its epilogue, a cluster for each tile.

    Parameters
    ----------
    tile : Tile
    blocks : int
        Of a cluster; see :func:`part_of`.
    x, weight, out, bias, activation, residual
        As of :func:`~llm_numba.kernels.gemm_hopper_fused.gemm_fused`, checked;
        :func:`~llm_numba.kernels.gemm_hopper.why_not` has no reason against them.
    """
    part, others = part_of(tile, blocks), [each for each in (bias, residual) if each is not None]
    gated = activation == GATED
    width = part.columns // 2 if gated else part.columns
    whole_boxes = width % BOX_COLUMNS == 0 and not why_no_map(out)
    by_engine = (
        whole_boxes and storage_dtype(out) == storage_dtype(x) and all(map(is_paired, others))
    )
    ending = epilogue(activation, bias is not None, residual is not None, by_engine)
    how = tensor_map(out, GROUP_ROWS) if by_engine else is_paired(out)
    maps = tensor_map(x, tile.rows), tensor_map(weight, width)
    args = (*maps, x.shape[1], out, TOGETHER, how, *present(bias, residual, x, out))
    tiles = tiles_of(tile._replace(columns=ending.columns(tile)), out)
    kernel, threads = (
        split(storage_dtype(x), tile, ending, blocks),
        GROUP_THREADS * (1 + tile.groups),
    )
    return (Launch(kernel, (blocks * tiles,), (threads,), args, shared_bytes(tile, blocks)),)


def shared_bytes(tile: Tile, blocks: int) -> int:
    """Return the dynamic shared memory of a block: for stages, then sums, then the ending's rooms.

    Parameters
    ----------
    tile : Tile
    blocks : int
    """
    part = part_of(tile, blocks)
    laid = 4 * tile.rows * (tile.columns - part.columns)
    return max(tile.shared_bytes, laid, part.shared_bytes + staging_bytes(part))


def cuts_for(M: int, N: int, K: int, multiprocessors: int) -> tuple[tuple[Tile, int], ...]:
    """Return the cuts all of whose clusters have room at once, and whose blocks all have a slab.

    Parameters
    ----------
    M, N, K : int
        Of the product; N are rows of B, those of a gate and of what it lets through.
    multiprocessors : int
        Of the GPU.

    Returns
    -------
    tuple of (Tile, int)
        Of :data:`SPLIT_SLAB`.
    """

    def fits(tile: Tile, blocks: int) -> bool:
        tiles = math.ceil(M / tile.rows) * math.ceil(N / tile.columns)
        return tiles <= _ROOM[blocks] * multiprocessors // _SMS and blocks * SLAB <= K

    return tuple(cut for cut in SPLIT_SLAB if fits(*cut))
