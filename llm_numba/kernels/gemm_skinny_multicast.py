r"""The kernel for few rows whose blocks share x, and go through all of K of their own columns.

Where blocks share the K of a tile, each has a few slabs only. It has hardly begun when it ends, and
then its sums meet those of the others. If a block had all of K, there would be nothing to meet. But
for 128 blocks 4,096 rows of weights are 32 each, and then x is most of what comes: with 64 rows of
it, two bytes of x for each byte of weights.

So the blocks of a cluster, side by side in C, share each slab of x. Each brings a part of its rows,
for all of them, as those of :mod:`~llm_numba.kernels.gemm_hopper_clusters` do with B::

    block    0                   1
    W        rows 0 to 31        rows 32 to 63        each to its own block
    x        rows 0 to 31        rows 32 to 63        each to both

    full[s]  in each block    its own rows of W and all rows of x
    free[s]  in each block    each warp of both has read stage s

Larger clusters would read less of x. But a cluster lies within one group of SMs, and the groups of
an H100 are not multiples of four: with a block on each SM, some would have to wait for a place.

With so few rows of weights, it is x that has the 64 rows of ``wgmma``, and weights are its columns:
32, or 48, or any multiple of 8 that makes one block for each SM. Where x has only 32 rows, the
instruction reads 32 rows of weights behind them as well. A row of sums comes of one row of x, so
those of the other 32 are of no use, and do no harm.

One warp brings W and another x, so that neither waits for what only the other must wait for. The
blocks meet when all have barriers, with their first weights under way. And nobody ends while
others may still arrive at its barriers: each says when it has multiplied its last slab, and waits
for the others when it has stored its share of C.

Sources: as there.
"""

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, float32, int32, uint64

from llm_numba.kernels import gemm_hopper_pieces as pieces
from llm_numba.kernels import ptx
from llm_numba.kernels.activation import ACTIVATIONS
from llm_numba.kernels.gemm_hopper_pieces import ATOM, GROUP_ROWS, GROUP_THREADS, SLAB, STORED
from llm_numba.kernels.gemm_plans import present
from llm_numba.kernels.gemm_skinny_hopper import consuming, turning
from llm_numba.kernels.gemm_skinny_kernel import finishing, joined_bytes, pitch
from llm_numba.kernels.packets import rounded_up
from llm_numba.kernels.unrolled import unrolled
from llm_numba.runtime import Launch, starts_early, storage_dtype, tensor_map
from llm_numba.runtime.room import Room
from llm_numba.simulator.clusters import in_clusters

_WARP = 32
_LEAST_ROWS = 32  # of x, and of W: an instruction reads 64 that lie behind each other
_MOST_COLUMNS = 256  # of an instruction
_LEAST_STAGES = 2  # one is multiplied while the one before is given back
_KEPT_BACK = 1024  # bytes of shared memory: barriers, and what each block costs besides its own


class Slice(NamedTuple):
    """What a block multiplies: all rows of x by some columns of C.

    Attributes
    ----------
    rows : int
        Of x: 32, or a multiple of 64.
    columns : int
        Of C, rows of weights: a multiple of 8 from 32 to 256; with a gate, a multiple of 16.
    stages : int
        Slabs that are in shared memory or on their way: 2 to 32, a lane makes the barriers of each.
    blocks : int
        Of a cluster, which share x: 2, 4 or 8, with 8 rows for each at least.
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
        return -(-self.rows // GROUP_ROWS) * GROUP_THREADS

    @property
    def threads(self) -> int:
        """Of a block: two more warps bring W and x."""
        return self.multipliers + 2 * _WARP


def slice_for(shape: tuple[int, int, int], gated: bool, room: Room, blocks: int = 2) -> Slice:
    """Choose the columns that make one block for each SM, and stages that fill it.

    Parameters
    ----------
    shape : tuple of int
        M, N (rows of the weight) and K.
    gated : bool
    room : Room
        Of the device.
    blocks : int
        Of a cluster.

    Returns
    -------
    Slice
        If not even two stages of all N's share fit, or it is too wide for an instruction, with
        several blocks for each SM, one after the other.
    """
    M, N, _ = shape
    (rows,) = rounded_up((max(M, _LEAST_ROWS),))
    # In trials half of the room was enough for few rows, and more weights ahead of x were too many.
    on_one = 2 if rows == _LEAST_ROWS else 1
    step = 16 if gated else 8
    budget = (room.shared_bytes + _KEPT_BACK) // on_one - 2 * _KEPT_BACK - ATOM
    most = min(_MOST_COLUMNS, budget // (_LEAST_STAGES * 2 * SLAB) - rows) // step * step
    turns = max(1, math.ceil(N / (most * room.multiprocessors)))
    columns = max(_LEAST_ROWS, math.ceil(N / (turns * room.multiprocessors * step)) * step)
    stages = min(_WARP, budget // (2 * (rows + columns) * SLAB))
    return Slice(rows, columns, stages, blocks)


def plan_slice(
    cut: Slice,
    x: Any,
    weight: Any,
    out: Any,
    bias: Any = None,
    activation: str | None = None,
    residual: Any = None,
) -> tuple[Launch, ...]:
    """Plan a product by a cut, on a device that has these instructions.

    Parameters
    ----------
    cut : Slice
    x, weight, out, bias, activation, residual
        The operands of :data:`~llm_numba.kernels.gemm_skinny.LADDER`, which the copy engine can
        address.
    """
    gated = activation == "silu_mul"
    # A gate's two columns take the room of one of the result.
    width = cut.columns // 2 if gated else cut.columns
    maps = tensor_map(x, cut.rows // cut.blocks), tensor_map(weight, width)
    number = 0 if gated else ACTIVATIONS[activation]
    args = (*maps, x.shape[1], *present(bias, residual, x, out), number, out)
    clusters = math.ceil(out.shape[1] / (width * cut.blocks))
    kernel = multicast(storage_dtype(x), cut, gated)
    return (Launch(kernel, (clusters * cut.blocks,), (cut.threads,), args, cut.shared_bytes),)


@functools.cache
def _bringing(cut: Slice, gated: bool) -> tuple[Any, Any]:
    """Make the device functions with which the producer asks for a slab of W, and for one of x."""
    BYTES, W_BEGINS, HALF = cut.stage_bytes, cut.rows * SLAB, cut.columns // 2
    SHARE, EVERYONE = cut.rows // cut.blocks, 2**cut.blocks - 1

    @cuda.jit(device=True)
    def bring_w(tiles, at, full, stage, w_map, k, first, up):
        """Announce a slab, and ask for its weights: of a gate, half are rows of up."""
        ptx.mbarrier_expect(full, stage, BYTES)
        ptx.tma_load_2d(tiles, at + W_BEGINS, w_map, k, first, full, stage)
        if gated:
            ptx.tma_load_2d(tiles, at + W_BEGINS + HALF * SLAB, w_map, k, up + first, full, stage)

    @cuda.jit(device=True)
    def bring_x(tiles, at, full, stage, x_map, k, rank):
        """Ask for this block's rows of x, for all blocks of the cluster."""
        row = rank * SHARE
        ptx.tma_multicast_2d(tiles, at + row * SLAB, x_map, k, row, full, stage, EVERYONE)

    return bring_w, bring_x


@functools.cache
def multicast(storage: str, cut: Slice, gated: bool, /) -> Any:
    """Make the kernel.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    cut : Slice
    gated : bool
        Whether W is [2F, K], and two of its rows make one column of C.
    """
    ROWS, COLUMNS, STAGES, BLOCKS = cut
    STAGE, MULTIPLIERS, FORM = cut.stage_bytes // 2, cut.multipliers, STORED[storage]
    SUMS, OUTPUTS, PITCH = COLUMNS // 2, COLUMNS // 2 if gated else COLUMNS, pitch(cut)
    OF_W, OF_X = MULTIPLIERS, MULTIPLIERS + _WARP
    ARRIVALS, WITH_SUMS = MULTIPLIERS // _WARP * BLOCKS, 2 * ROWS  # threads that have sums of x
    bring_w, bring_x = _bringing(cut, gated)
    consume = consuming(pieces.Tile(GROUP_ROWS, COLUMNS, STAGES), cut.stage_bytes, BLOCKS)
    turn = turning(STAGES)
    finish = finishing(cut, 1, COLUMNS, gated, MULTIPLIERS)

    @cuda.jit(device=True, forceinline=True)
    def lay_eight(j, operands):
        """Lay the sums of 8 columns down: 2t and 2t + 1 of rows g and g + 8."""
        acc, passing, row, column = operands
        for e in range(4):
            passing[(row + e // 2 * 8) * PITCH + column + 8 * j + e % 2] = acc[4 * j + e]

    lay = unrolled(COLUMNS // 8, lay_eight)

    @starts_early
    @in_clusters(BLOCKS)
    @cuda.jit(launch_bounds=(cut.threads, 1))
    def gemm_skinny_multicast(x_map, w_map, K, bias, residual, activation, c):
        """Make all rows of some columns of C."""
        x_map, w_map, t = ptx.parameter(x_map), ptx.parameter(w_map), cuda.threadIdx.x
        tiles, passing = cuda.shared.array(0, FORM), cuda.shared.array(0, float32)
        full, free = cuda.shared.array(STAGES, uint64), cuda.shared.array(STAGES, uint64)
        acc = cuda.local.array(SUMS, float32)
        rank, column, up = ptx.cluster_rank(), cuda.blockIdx.x * OUTPUTS, c.shape[1]
        at, slabs = pieces.first_place(tiles), int32((K + SLAB - 1) // SLAB)
        if OF_W <= t < OF_W + STAGES:
            ptx.mbarrier_init(full, t - OF_W, 1)
            ptx.mbarrier_init(free, t - OF_W, ARRIVALS)
            ptx.fence_async()
            ptx.fence_barriers()
        cuda.syncwarp()
        ptx.cluster_arrive()
        if t == OF_W:
            for s in range(min(STAGES, slabs)):
                bring_w(tiles, at + s * STAGE, full, s, w_map, s * SLAB, column, up)
        cuda.syncwarp()
        ptx.cluster_wait()  # from here on, all have barriers at which x may come
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        stage, parity = int32(0), int32(0)
        if t == OF_W:
            for s in range(STAGES, slabs):
                while not ptx.mbarrier_test(free, stage, parity):
                    pass
                bring_w(tiles, at + stage * STAGE, full, stage, w_map, s * SLAB, column, up)
                stage, parity = turn(stage, parity)
        elif t == OF_X:
            for s in range(slabs):
                # At first it finds that the phase before is complete: there has been none.
                while not ptx.mbarrier_test(free, stage, parity ^ 1):
                    pass
                bring_x(tiles, at + stage * STAGE, full, stage, x_map, s * SLAB, rank)
                stage, parity = turn(stage, parity)
        elif t < MULTIPLIERS:
            own = at + t // GROUP_THREADS * GROUP_ROWS * SLAB
            of_x = ptx.matrix_descriptor(tiles, own)
            of_w = ptx.matrix_descriptor(tiles, at + ROWS * SLAB)
            consume(tiles, of_x, of_w, full, free, acc, slabs)
        cuda.syncwarp()  # lanes have waited for the one of their warp that is busy
        ptx.cluster_arrive()
        cuda.syncthreads()
        if t < WITH_SUMS:
            lay(0, (acc, passing, t // _WARP * 16 + t % _WARP // 4, t % 4 * 2))
        cuda.syncthreads()
        if t < MULTIPLIERS:
            finish(passing, 0, column, bias, residual, activation, c)
        cuda.syncwarp()
        ptx.cluster_wait()

    return gemm_skinny_multicast
