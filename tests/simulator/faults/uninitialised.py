"""Memory that is read before anything was written to it."""

import numpy as np
from numba import cuda, float32, int32

from .case import Case, ramp, zeros


@cuda.jit
def counts_not_zeroed(bins, out):
    t = cuda.threadIdx.x
    counts = cuda.shared.array(4, int32)
    cuda.atomic.add(counts, bins[t], 1)  # FAULT: shared memory holds what the last block left
    cuda.syncthreads()
    if t < 4:
        out[t] = counts[t]


@cuda.jit
def counts_zeroed(bins, out):
    t = cuda.threadIdx.x
    counts = cuda.shared.array(4, int32)
    if t < 4:
        counts[t] = 0
    cuda.syncthreads()
    cuda.atomic.add(counts, bins[t], 1)
    cuda.syncthreads()
    if t < 4:
        out[t] = counts[t]


@cuda.jit
def accumulators_not_zeroed(x, out):
    """Each thread sums the columns of four rows."""
    column = cuda.grid(1)
    sums = cuda.local.array(4, float32)
    for row in range(x.shape[0]):
        sums[row % 4] += x[row, column]  # FAULT: local arrays do not start at zero
    for k in range(4):
        out[k, column] = sums[k]


@cuda.jit
def accumulators_zeroed(x, out):
    column = cuda.grid(1)
    sums = cuda.local.array(4, float32)
    for k in range(4):
        sums[k] = float32(0)
    for row in range(x.shape[0]):
        sums[row % 4] += x[row, column]
    for k in range(4):
        out[k, column] = sums[k]


@cuda.jit
def tail_of_tile_not_zeroed(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    i = cuda.grid(1)
    if i < x.shape[0]:
        tile[t] = x[i]
    cuda.syncthreads()
    if t == 0:
        total = float32(0)
        for k in range(32):
            total += tile[k]  # FAULT: in the last block only 8 were written
        out[cuda.blockIdx.x] = total


@cuda.jit
def tail_of_tile_zeroed(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    i = cuda.grid(1)
    tile[t] = float32(0)
    if i < x.shape[0]:
        tile[t] = x[i]
    cuda.syncthreads()
    if t == 0:
        total = float32(0)
        for k in range(32):
            total += tile[k]
        out[cuda.blockIdx.x] = total


@cuda.jit
def halo_not_loaded(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(34, float32)
    tile[t + 1] = x[t]
    cuda.syncthreads()
    out[t] = tile[t] + tile[t + 2]  # FAULT: nobody wrote tile[0] and tile[33]


@cuda.jit
def halo_loaded(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(34, float32)
    tile[t + 1] = x[t]
    if t < 2:
        tile[33 * t] = float32(0)
    cuda.syncthreads()
    out[t] = tile[t] + tile[t + 2]


@cuda.jit
def more_partial_sums_than_warps(x, out):
    """Block sum whose last step reads 32 partial sums, however many warps there are."""
    t = cuda.threadIdx.x
    partial = cuda.shared.array(32, float32)
    value = x[t]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
    if t % 32 == 0:
        partial[t // 32] = value
    cuda.syncthreads()
    if t < 32:
        value = partial[t]  # FAULT: two warps wrote two
        for offset in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
        if t == 0:
            out[0] = value


@cuda.jit
def as_many_partial_sums_as_warps(x, out):
    t = cuda.threadIdx.x
    partial = cuda.shared.array(32, float32)
    value = x[t]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
    if t % 32 == 0:
        partial[t // 32] = value
    cuda.syncthreads()
    if t < 32:
        value = float32(0)
        if t < cuda.blockDim.x // 32:
            value = partial[t]
        for offset in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
        if t == 0:
            out[0] = value


@cuda.jit
def double_buffer_not_primed(x, out):
    """While one half of the buffer is used, the other is filled for the next round."""
    t = cuda.threadIdx.x
    buffer = cuda.shared.array((2, 32), float32)
    total = float32(0)
    for turn in range(x.shape[0]):
        if turn + 1 < x.shape[0]:
            buffer[(turn + 1) % 2, t] = x[turn + 1, t]
        total += buffer[turn % 2, 31 - t]  # FAULT: the first round was never loaded
        cuda.syncthreads()
    out[t] = total


@cuda.jit
def double_buffer_primed(x, out):
    t = cuda.threadIdx.x
    buffer = cuda.shared.array((2, 32), float32)
    buffer[0, t] = x[0, t]
    cuda.syncthreads()
    total = float32(0)
    for turn in range(x.shape[0]):
        if turn + 1 < x.shape[0]:
            buffer[(turn + 1) % 2, t] = x[turn + 1, t]
        total += buffer[turn % 2, 31 - t]
        cuda.syncthreads()
    out[t] = total


def remainders() -> np.ndarray:
    return np.arange(32, dtype=np.int32) * 7 % 4


CASES = (
    Case(
        "shared counters that nobody set to zero",
        counts_not_zeroed,
        counts_zeroed,
        args=lambda: (remainders(), zeros(4)),
        want=lambda bins, out: np.bincount(bins, minlength=4),
    ),
    Case(
        "local accumulators that nobody set to zero",
        accumulators_not_zeroed,
        accumulators_zeroed,
        args=lambda: (ramp(256).reshape(8, 32), zeros(4, 32)),
        want=lambda x, out: x[:4] + x[4:],
    ),
    Case(
        "the tail of a tile that nobody filled",
        tail_of_tile_not_zeroed,
        tail_of_tile_zeroed,
        args=lambda: (ramp(40), zeros(2)),
        want=lambda x, out: np.array([x[:32].sum(), x[32:].sum()]),
        grid=2,
        threads=(32,),
    ),
    Case(
        "a halo that nobody loaded",
        halo_not_loaded,
        halo_loaded,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: np.convolve(x, [1, 0, 1], mode="same"),
        threads=(0, 31),
    ),
    Case(
        "partial sums of warps that do not exist",
        more_partial_sums_than_warps,
        as_many_partial_sums_as_warps,
        args=lambda: (ramp(64), zeros(1)),
        want=lambda x, out: x.sum(keepdims=True),
        block=64,
        threads=range(2, 32),
    ),
    Case(
        "a double buffer whose first half nobody filled",
        double_buffer_not_primed,
        double_buffer_primed,
        args=lambda: (ramp(96).reshape(3, 32), zeros(32)),
        want=lambda x, out: x.sum(axis=0)[::-1],
    ),
)
