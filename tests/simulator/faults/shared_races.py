"""Threads of one block that touch the same shared memory with no barrier between."""

import numpy as np
from numba import cuda, float32, int32

from .case import Case, ramp, zeros


@cuda.jit
def reverse_without_barrier(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    tile[t] = x[t]  # FAULT: the reader may come first
    out[t] = tile[63 - t]  # FAULT


@cuda.jit
def reverse(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    tile[t] = x[t]
    cuda.syncthreads()
    out[t] = tile[63 - t]


@cuda.jit
def tile_reused_too_early(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    total = float32(0)
    for start in range(0, x.shape[0], 64):
        tile[t] = x[start + t]  # FAULT: the last round's readers may not be through
        cuda.syncthreads()
        for i in range(4):
            total += tile[(t + 16 * i) % 64]  # FAULT
    out[t] = total


@cuda.jit
def tile_reused(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    total = float32(0)
    for start in range(0, x.shape[0], 64):
        tile[t] = x[start + t]
        cuda.syncthreads()
        for i in range(4):
            total += tile[(t + 16 * i) % 64]
        cuda.syncthreads()
    out[t] = total


@cuda.jit
def warp_synchronous_sum(x, out):
    """As it was written before Volta, when the lanes of a warp marched in step."""
    t = cuda.threadIdx.x
    partial = cuda.shared.array(64, float32)
    partial[t] = x[t]
    cuda.syncthreads()
    if t < 32:
        partial[t] += partial[t + 32]  # FAULT
        partial[t] += partial[t + 16]  # FAULT
        partial[t] += partial[t + 8]  # FAULT
        partial[t] += partial[t + 4]  # FAULT
        partial[t] += partial[t + 2]  # FAULT
        partial[t] += partial[t + 1]  # FAULT
    if t == 0:
        out[0] = partial[0]


@cuda.jit
def warp_sum_with_syncwarp(x, out):
    t = cuda.threadIdx.x
    partial = cuda.shared.array(64, float32)
    partial[t] = x[t]
    cuda.syncthreads()
    if t < 32:
        offset = 32
        while offset > 0:
            if t < offset:
                partial[t] += partial[t + offset]
            cuda.syncwarp()
            offset //= 2
    if t == 0:
        out[0] = partial[0]


@cuda.jit
def shuffle_taken_for_a_barrier(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    tile[t] = x[t]  # FAULT
    total = cuda.shfl_xor_sync(0xFFFFFFFF, x[t], 1)
    out[t] = tile[t ^ 1] - total  # FAULT: registers have met, memory need not


@cuda.jit
def shuffle_and_barrier(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    tile[t] = x[t]
    total = cuda.shfl_xor_sync(0xFFFFFFFF, x[t], 1)
    cuda.syncwarp()
    out[t] = tile[t ^ 1] - total


@cuda.jit
def histogram_by_increment(bins, out):
    t = cuda.threadIdx.x
    counts = cuda.shared.array(4, int32)
    if t < 4:
        counts[t] = 0
    cuda.syncthreads()
    counts[bins[t]] += 1  # FAULT: read, add and write are three steps
    cuda.syncthreads()
    if t < 4:
        out[t] = counts[t]


@cuda.jit
def histogram_by_atomic(bins, out):
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
def counter_zeroed_while_others_count(bins, out):
    t = cuda.threadIdx.x
    counts = cuda.shared.array(4, int32)
    if t < 4:
        counts[t] = 0  # FAULT: a warp that is faster has counted already
    cuda.atomic.add(counts, bins[t], 1)  # FAULT
    cuda.syncthreads()
    if t < 4:
        out[t] = counts[t]


@cuda.jit
def broadcast_without_barrier(x, out):
    t = cuda.threadIdx.x
    first = cuda.shared.array(1, float32)
    if t == 0:
        first[0] = x[0]  # FAULT
    out[t] = x[t] - first[0]  # FAULT: the other warp does not wait for thread 0


@cuda.jit
def broadcast(x, out):
    t = cuda.threadIdx.x
    first = cuda.shared.array(1, float32)
    if t == 0:
        first[0] = x[0]
    cuda.syncthreads()
    out[t] = x[t] - first[0]


@cuda.jit
def scan_in_place(x, out):
    """Prefix sums by doubling: each thread adds what lies ``offset`` to its left."""
    t = cuda.threadIdx.x
    sums = cuda.shared.array(64, float32)
    sums[t] = x[t]
    cuda.syncthreads()
    offset = 1
    while offset < 64:
        if t >= offset:
            sums[t] += sums[t - offset]  # FAULT: the neighbour may have added already
        cuda.syncthreads()
        offset *= 2
    out[t] = sums[t]


@cuda.jit
def scan_through_register(x, out):
    t = cuda.threadIdx.x
    sums = cuda.shared.array(64, float32)
    sums[t] = x[t]
    cuda.syncthreads()
    offset = 1
    while offset < 64:
        left = float32(0)
        if t >= offset:
            left = sums[t - offset]
        cuda.syncthreads()
        sums[t] += left
        cuda.syncthreads()
        offset *= 2
    out[t] = sums[t]


@cuda.jit
def scratch_shared_by_two_sums(x, out):
    """Sum of x, then of x squared, through the same scratch memory."""
    t = cuda.threadIdx.x
    scratch = cuda.shared.array(2, float32)
    for power in range(2):
        value = x[t]
        if power == 1:
            value *= value
        for offset in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
        if t % 32 == 0:
            scratch[t // 32] = value  # FAULT: the other warp may still read the first sum
        cuda.syncthreads()
        out[power, t] = scratch[0] + scratch[1]  # FAULT


@cuda.jit
def scratch_behind_two_barriers(x, out):
    t = cuda.threadIdx.x
    scratch = cuda.shared.array(2, float32)
    for power in range(2):
        value = x[t]
        if power == 1:
            value *= value
        for offset in (16, 8, 4, 2, 1):
            value += cuda.shfl_xor_sync(0xFFFFFFFF, value, offset)
        if t % 32 == 0:
            scratch[t // 32] = value
        cuda.syncthreads()
        out[power, t] = scratch[0] + scratch[1]
        cuda.syncthreads()


@cuda.jit
def scratch_taken_back_by_one_warp(x, out):
    """Thread 0 leaves a number for all, then one for its own warp."""
    t = cuda.threadIdx.x
    scratch = cuda.shared.array(1, float32)
    if t == 0:
        scratch[0] = x[0]
    cuda.syncthreads()
    if t >= 32:
        out[t] = scratch[0]  # FAULT: the other warp may come as late as it likes
    else:
        first = scratch[0]
        cuda.syncwarp()
        if t == 0:
            scratch[0] = x[1]  # FAULT: only one warp has certainly read
        cuda.syncwarp()
        out[t] = first + scratch[0]


@cuda.jit
def scratch_given_up_by_both_warps(x, out):
    t = cuda.threadIdx.x
    scratch = cuda.shared.array(1, float32)
    if t == 0:
        scratch[0] = x[0]
    cuda.syncthreads()
    first = scratch[0]
    cuda.syncthreads()
    if t >= 32:
        out[t] = first
    else:
        if t == 0:
            scratch[0] = x[1]
        cuda.syncwarp()
        out[t] = first + scratch[0]


def remainders() -> np.ndarray:
    return np.arange(64, dtype=np.int32) * 7 % 4


CASES = (
    Case(
        "a tile read before the barrier",
        reverse_without_barrier,
        reverse,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: x[::-1],
        block=64,
        threads=range(64),
    ),
    Case(
        "a tile overwritten before all have read it",
        tile_reused_too_early,
        tile_reused,
        args=lambda: (ramp(128), zeros(64)),
        want=lambda x, out: np.tile(x.reshape(8, 16).sum(axis=0), 4),
        block=64,
        threads=range(64),
    ),
    Case(
        "lanes trusted to march in step",
        warp_synchronous_sum,
        warp_sum_with_syncwarp,
        args=lambda: (ramp(64), zeros(1)),
        want=lambda x, out: x.sum(keepdims=True),
        block=64,
        threads=range(32),
    ),
    Case(
        "a shuffle taken for a barrier",
        shuffle_taken_for_a_barrier,
        shuffle_and_barrier,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: np.zeros(32),
    ),
    Case(
        "a shared counter without an atomic",
        histogram_by_increment,
        histogram_by_atomic,
        args=lambda: (remainders(), zeros(4)),
        want=lambda bins, out: np.bincount(bins, minlength=4),
        block=64,
        threads=range(64),
    ),
    Case(
        "a counter set to zero while others count",
        counter_zeroed_while_others_count,
        histogram_by_atomic,
        args=lambda: (remainders(), zeros(4)),
        want=lambda bins, out: np.bincount(bins, minlength=4),
        block=64,
        threads=range(64),
    ),
    Case(
        "one thread's value read without a barrier",
        broadcast_without_barrier,
        broadcast,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: x - x[0],
        block=64,
        threads=range(64),
    ),
    Case(
        "a scan that reads and writes in one step",
        scan_in_place,
        scan_through_register,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: np.cumsum(x),
        block=64,
        threads=range(64),
    ),
    Case(
        "scratch memory of two reductions",
        scratch_shared_by_two_sums,
        scratch_behind_two_barriers,
        args=lambda: (ramp(64), zeros(2, 64)),
        want=lambda x, out: np.stack([np.full(64, x.sum()), np.full(64, (x * x).sum())]),
        block=64,
        threads=range(64),
    ),
    Case(
        "scratch memory that one warp takes back",
        scratch_taken_back_by_one_warp,
        scratch_given_up_by_both_warps,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: np.repeat([3, 1], 32),
        block=64,
        threads=range(64),
    ),
)
