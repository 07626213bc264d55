"""Barriers and warp operations that not all threads reach which must."""

import numpy as np
from numba import cuda, float32

from .case import Case, ramp, zeros


@cuda.jit
def barrier_for_half_the_block(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    if t < 16:
        tile[t] = x[t]
        cuda.syncthreads()  # FAULT: threads 16 to 31 never come here
    out[t] = tile[t % 16]


@cuda.jit
def barrier_for_the_block(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    if t < 16:
        tile[t] = x[t]
    cuda.syncthreads()
    out[t] = tile[t % 16]


@cuda.jit
def tail_returns_before_barrier(x, out):
    i = cuda.grid(1)
    if i >= x.shape[0]:
        return
    tile = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    tile[t] = x[i]
    cuda.syncthreads()  # FAULT: the tail has left
    out[i] = tile[t ^ 1]


@cuda.jit
def tail_stays_for_barrier(x, out):
    i = cuda.grid(1)
    tile = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    if i < x.shape[0]:
        tile[t] = x[i]
    cuda.syncthreads()
    if i < x.shape[0]:
        out[i] = tile[t ^ 1]


@cuda.jit
def barrier_in_uneven_loop(x, out):
    """Running maximum over rounds; 40 numbers are two rounds for some, one for others."""
    t = cuda.threadIdx.x
    best = cuda.shared.array(1, float32)
    if t == 0:
        best[0] = float32(0)
    cuda.syncthreads()
    for i in range(t, x.shape[0], 32):
        cuda.atomic.max(best, 0, x[i])
        cuda.syncthreads()  # FAULT: threads 8 to 31 leave the loop after one round
    if t == 0:
        out[0] = best[0]


@cuda.jit
def barrier_in_even_loop(x, out):
    t = cuda.threadIdx.x
    best = cuda.shared.array(1, float32)
    if t == 0:
        best[0] = float32(0)
    cuda.syncthreads()
    for start in range(0, x.shape[0], 32):
        if start + t < x.shape[0]:
            cuda.atomic.max(best, 0, x[start + t])
        cuda.syncthreads()
    if t == 0:
        out[0] = best[0]


@cuda.jit
def two_barriers_for_one(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    if t < 32:
        tile[t] = x[t]
        cuda.syncthreads()  # FAULT: not the barrier at which the other warp waits
    else:
        tile[t] = -x[t]
        cuda.syncthreads()  # FAULT
    out[t] = tile[63 - t]


@cuda.jit
def one_barrier(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(64, float32)
    if t < 32:
        tile[t] = x[t]
    else:
        tile[t] = -x[t]
    cuda.syncthreads()
    out[t] = tile[63 - t]


@cuda.jit
def shuffle_in_divergent_branch(x, out):
    lane = cuda.laneid
    value = x[lane]
    if lane < 16:
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, 16)  # FAULT: half the mask is elsewhere
        out[lane] = value


@cuda.jit
def shuffle_before_branch(x, out):
    lane = cuda.laneid
    value = x[lane]
    value += cuda.shfl_down_sync(0xFFFFFFFF, value, 16)
    if lane < 16:
        out[lane] = value


@cuda.jit
def vote_after_return(x, out):
    """Is every number of the warp positive?"""
    i = cuda.grid(1)
    if i >= x.shape[0]:
        return
    all_positive = cuda.all_sync(0xFFFFFFFF, x[i] > float32(0))  # FAULT: the tail has left
    if all_positive:
        out[i] = float32(1)


@cuda.jit
def vote_before_return(x, out):
    i = cuda.grid(1)
    positive = True
    if i < x.shape[0]:
        positive = x[i] > float32(0)
    all_positive = cuda.all_sync(0xFFFFFFFF, positive)
    if all_positive and i < x.shape[0]:
        out[i] = float32(1)


@cuda.jit
def syncwarp_for_half_the_warp(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    tile[t] = x[t]
    if t < 16:
        cuda.syncwarp()  # FAULT: the mask is all 32 lanes
        out[t] = tile[t + 16]


@cuda.jit
def syncwarp_for_the_warp(x, out):
    t = cuda.threadIdx.x
    tile = cuda.shared.array(32, float32)
    tile[t] = x[t]
    cuda.syncwarp()
    if t < 16:
        out[t] = tile[t + 16]


@cuda.jit
def caller_outside_its_mask(x, out):
    lane = cuda.laneid
    out[lane] = cuda.shfl_sync(0xFFFF, x[lane], 0)  # FAULT: lanes 16 to 31 call, unnamed


@cuda.jit
def caller_in_its_mask(x, out):
    lane = cuda.laneid
    out[lane] = cuda.shfl_sync(0xFFFFFFFF, x[lane], 0)


CASES = (
    Case(
        "a barrier in a branch that half the block takes",
        barrier_for_half_the_block,
        barrier_for_the_block,
        args=lambda: (ramp(16), zeros(32)),
        want=lambda x, out: np.tile(x, 2),
    ),
    Case(
        "a return before the barrier",
        tail_returns_before_barrier,
        tail_stays_for_barrier,
        args=lambda: (ramp(50), zeros(50)),
        want=lambda x, out: x.reshape(-1, 2)[:, ::-1].reshape(-1),
        grid=2,
        threads=range(32, 64),
    ),
    Case(
        "a barrier in a loop of uneven length",
        barrier_in_uneven_loop,
        barrier_in_even_loop,
        args=lambda: (ramp(40), zeros(1)),
        want=lambda x, out: x.max(keepdims=True),
    ),
    Case(
        "a barrier in either branch",
        two_barriers_for_one,
        one_barrier,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: np.concatenate([x[:31:-1] * -1, x[31::-1]]),
        block=64,
        threads=range(64),
    ),
    Case(
        "a shuffle of all lanes in a branch of half",
        shuffle_in_divergent_branch,
        shuffle_before_branch,
        args=lambda: (ramp(32), zeros(16)),
        want=lambda x, out: x[:16] + x[16:],
    ),
    Case(
        "a vote of all lanes after some have returned",
        vote_after_return,
        vote_before_return,
        args=lambda: (ramp(20), zeros(20)),
        want=lambda x, out: np.ones(20),
    ),
    Case(
        "a warp barrier in a branch of half",
        syncwarp_for_half_the_warp,
        syncwarp_for_the_warp,
        args=lambda: (ramp(32), zeros(16)),
        want=lambda x, out: x[16:],
    ),
    Case(
        "a lane that its own mask leaves out",
        caller_outside_its_mask,
        caller_in_its_mask,
        args=lambda: (ramp(32), zeros(32)),
        want=lambda x, out: np.full(32, x[0]),
        threads=range(16, 32),
    ),
)
