r"""The kernel for few rows on Hopper: the copy engine streams weights, warpgroups multiply.

What :mod:`~llm_numba.kernels.gemm_skinny_kernel` does with fragments, an H100's own instruction
does out of shared memory: 64 rows of weights by all rows of x, up to 128 of them. So nobody loads
fragments, and shared memory has only to take in what memory gives. And one thread asks for it, box
by box, as far ahead as there are stages::

    producer    W of the first stages | wait for the kernel before | x of them | wait FREE, W, x ..
    consumers                                                      wait FULL, multiply, arrive FREE

    stage  | 64 or 128 rows of weights, 64 numbers each | rows of x |
             a warpgroup has 64 of them

Barriers, trades and tiles are those of :mod:`~llm_numba.kernels.gemm_hopper_specialised`; parts of
K meet in a cluster as there. A block's threads have few sums, 64 at most: there is no need to
share registers out anew.

Sources: as there.
"""

import functools
from typing import Any, NamedTuple

from numba import cuda, float32, int32, uint64

from llm_numba.kernels import gemm_hopper_pieces as pieces
from llm_numba.kernels import ptx
from llm_numba.kernels.gemm_hopper_pieces import ATOM, GROUP_ROWS, GROUP_THREADS, SLAB, STORED
from llm_numba.kernels.gemm_skinny_kernel import (
    finishing,
    joined_bytes,
    meeting,
    pitch,
)
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import starts_early
from llm_numba.simulator.clusters import in_clusters

_WARP = 32


class Stream(NamedTuple):
    """What a block multiplies.

    Attributes
    ----------
    rows : int
        Of x: a multiple of 8, up to 128.
    columns : int
        Of C, rows of weights: 64 for each warpgroup that multiplies.
    stages : int
        Slabs that are in shared memory or on their way.
    blocks : int
        That are to fit on an SM.
    """

    rows: int
    columns: int
    stages: int
    blocks: int

    @property
    def stage_bytes(self) -> int:
        """Bytes of a stage."""
        return 2 * (self.rows + self.columns) * SLAB

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return max(self.stages * self.stage_bytes, joined_bytes(self)) + ATOM

    @property
    def multipliers(self) -> int:
        """Threads that multiply."""
        return self.columns // GROUP_ROWS * GROUP_THREADS

    @property
    def threads(self) -> int:
        """Of a block: the last warp brings what the others multiply."""
        return self.multipliers + _WARP


@functools.cache
def _bringing(stream: Stream, gated: bool) -> tuple[Any, Any]:
    """Make the device functions with which the producer asks for a slab of W, and for one of x."""
    COLUMNS, BYTES = stream.columns, stream.stage_bytes
    HALF = COLUMNS // 2

    @cuda.jit(device=True)
    def bring_w(tiles, at, full, stage, w_map, k, first, up):
        """Announce a slab, and ask for its weights: of a gate, half are rows of up."""
        ptx.mbarrier_expect(full, stage, BYTES)
        ptx.tma_load_2d(tiles, at, w_map, k, first, full, stage)
        if gated:
            ptx.tma_load_2d(tiles, at + HALF * SLAB, w_map, k, up + first, full, stage)

    @cuda.jit(device=True)
    def bring_x(tiles, at, full, stage, x_map, k):
        """Ask for all rows of x."""
        ptx.tma_load_2d(tiles, at + COLUMNS * SLAB, x_map, k, 0, full, stage)

    return bring_w, bring_x


def turning(stages: int) -> Any:
    """Make what finds the stage of the next slab, and the parity of its phase.

    A remainder would be a dozen instructions of 64 bits, between any two slabs.
    """
    LAST = stages - 1

    @cuda.jit(device=True)
    def turn(stage, parity):
        """Go on to the next stage; behind the last, to the first and to its next phase."""
        if stage == LAST:
            return int32(0), parity ^ int32(1)
        return stage + int32(1), parity

    return turn


@functools.cache
def consuming(tile: pieces.Tile, stage_bytes: int, blocks: int = 1) -> Any:
    """Make what a warpgroup does with all slabs of a block.

    Parameters
    ----------
    tile : Tile
        Its columns are those of the instruction's B.
    stage_bytes : int
    blocks : int
        Of a cluster, in all of which a stage must be free before it is filled again.

    Returns
    -------
    device function
        ``consume(tiles, of_a, of_b, full, free, acc, slabs)``: the descriptors are those of the
        first stage.
    """
    multiply, turn, BLOCKS = pieces.multiplying(tile), turning(tile.stages), blocks
    IN_PACKETS = stage_bytes // 16  # what a descriptor counts in

    @cuda.jit(device=True)
    def set_free(free, stage):
        """Arrive, one thread of each warp for each block."""
        lane = cuda.threadIdx.x % _WARP
        if BLOCKS > 1:
            cuda.syncwarp()  # each of them speaks for all lanes
            if lane < BLOCKS:
                ptx.mbarrier_arrive_at(free, stage, lane)
        elif lane == 0:
            ptx.mbarrier_arrive(free, stage)

    @cuda.jit(device=True)
    def consume(tiles, of_a, of_b, full, free, acc, slabs):
        """Multiply slab after slab; who began one has done with the one before."""
        stage, parity, before = int32(0), int32(0), int32(0)
        for s in range(slabs):
            while not ptx.mbarrier_test(full, stage, parity):
                pass
            further = uint64(stage) * uint64(IN_PACKETS)
            multiply(tiles, of_a + further, of_b + further, acc, s > 0)
            ptx.wgmma_wait(1)
            if s > 0:
                set_free(free, before)
            before = stage
            stage, parity = turn(stage, parity)
        ptx.wgmma_wait(0)

    return consume


@functools.cache
def streamed(storage: str, stream: Stream, blocks: int, gated: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    stream : Stream
    blocks : int
        Of a cluster, which share the K of a tile: 1, or a power of two up to 8.
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    """
    ROWS, COLUMNS, STAGES = stream[:3]
    STAGE, MULTIPLIERS, FORM = stream.stage_bytes // 2, stream.multipliers, STORED[storage]
    WARPS, SUMS, OUTPUTS = MULTIPLIERS // _WARP, ROWS // 2, COLUMNS // 2 if gated else COLUMNS
    (bring_w, bring_x), meet = _bringing(stream, gated), meeting(blocks)
    consume = consuming(pieces.Tile(COLUMNS, ROWS, STAGES), stream.stage_bytes)
    turn = turning(STAGES)
    finish, PITCH = finishing(stream, blocks, COLUMNS, gated, MULTIPLIERS), pitch(stream)

    @cuda.jit(device=True, forceinline=True)
    def lay_eight(j, operands):
        """Lay the sums of 8 rows of x down: columns g and g + 8 of rows 2t and 2t + 1."""
        acc, passing, row, column = operands
        for e in range(4):
            passing[(row + 8 * j + e % 2) * PITCH + column + e // 2 * 8] = acc[4 * j + e]

    lay = unrolled(ROWS // 8, lay_eight)

    @starts_early
    @in_clusters(blocks)
    @cuda.jit(launch_bounds=(stream.threads, stream.blocks))
    def gemm_skinny_hopper(x_map, w_map, K, bias, residual, activation, span, c):
        """Make a tile of C; each block of the cluster goes through `span` of K, whole slabs."""
        x_map, w_map, t = ptx.parameter(x_map), ptx.parameter(w_map), cuda.threadIdx.x
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        full, free = cuda.shared.array(STAGES, uint64), cuda.shared.array(STAGES, uint64)
        acc = cuda.local.array(SUMS, float32)
        for i in range(SUMS):
            acc[i] = float32(0)  # of a part that has no slab
        rank, column = ptx.cluster_rank(), cuda.blockIdx.x // blocks * OUTPUTS
        at, k, up = pieces.first_place(tiles), rank * span, c.shape[1]
        slabs = int32((min(span, max(K - k, 0)) + SLAB - 1) // SLAB)
        if t == 0:
            for s in range(STAGES):
                ptx.mbarrier_init(full, s, 1)
                ptx.mbarrier_init(free, s, WARPS)
            ptx.fence_async()
        cuda.syncthreads()
        if t == MULTIPLIERS:
            for s in range(min(STAGES, slabs)):
                bring_w(tiles, at + s * STAGE, full, s, w_map, k + s * SLAB, column, up)
        ptx.await_previous_kernel()
        if t == MULTIPLIERS:
            stage, parity = int32(0), int32(1)  # of the phase before
            for s in range(slabs):
                if s >= STAGES:
                    while not ptx.mbarrier_test(free, stage, parity):
                        pass
                    bring_w(tiles, at + stage * STAGE, full, stage, w_map, k + s * SLAB, column, up)
                bring_x(tiles, at + stage * STAGE, full, stage, x_map, k + s * SLAB)
                stage, parity = turn(stage, parity)
            ptx.release_next_kernel()
        elif t < MULTIPLIERS:
            own = at + t // GROUP_THREADS * GROUP_ROWS * SLAB
            of_w = ptx.matrix_descriptor(tiles, own)
            of_x = ptx.matrix_descriptor(tiles, at + COLUMNS * SLAB)
            consume(tiles, of_w, of_x, full, free, acc, slabs)
        cuda.syncwarp()  # the producer's lanes have waited for the one that is busy
        cuda.syncthreads()
        if t < MULTIPLIERS:
            lay(0, (acc, passing, t % 4 * 2, t // _WARP * 16 + t % _WARP // 4))
        meet()
        if t < MULTIPLIERS:
            finish(passing, rank, column, bias, residual, activation, c)
        if blocks > 1:
            cuda.syncwarp()
            meet()  # nobody ends while others read what it has

    return gemm_skinny_hopper
