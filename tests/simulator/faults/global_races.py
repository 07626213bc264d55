"""Threads that touch the same global memory with nothing to order them."""

import numpy as np
from numba import cuda, float32, int32

from .case import Case, ramp, zeros


@cuda.jit
def blocks_add_to_one_sum(x, out):
    t = cuda.threadIdx.x
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
    if t == 0:
        out[0] += value  # FAULT: one thread a block, and yet two threads


@cuda.jit
def blocks_add_atomically(x, out):
    t = cuda.threadIdx.x
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
    if t == 0:
        cuda.atomic.add(out, 0, value)


@cuda.jit
def smooth_in_place(x, out):
    i = cuda.grid(1)
    if i < x.shape[0] - 1:
        x[i] += x[i + 1]  # FAULT: the neighbour may have been written already
        out[i] = x[i]


@cuda.jit
def smooth(x, out):
    i = cuda.grid(1)
    if i < x.shape[0] - 1:
        out[i] = x[i] + x[i + 1]


@cuda.jit
def plain_flag(message, flag, out):
    if cuda.blockIdx.x == 0:
        message[0] = float32(42)
        flag[0] = 1  # FAULT: neither the flag nor the message need arrive, or in this order
    else:
        while flag[0] == 0:  # FAULT
            pass
        out[0] = message[0]


@cuda.jit
def flag_without_fence(message, flag, out):
    if cuda.blockIdx.x == 0:
        message[0] = float32(42)  # FAULT: the flag may overtake it
        cuda.atomic.exch(flag, 0, 1)
    else:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
        out[0] = message[0]  # FAULT


@cuda.jit
def flag_without_the_reader_s_fence(message, flag, out):
    if cuda.blockIdx.x == 0:
        message[0] = float32(42)  # FAULT
        cuda.threadfence()
        cuda.atomic.exch(flag, 0, 1)
    else:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
        out[0] = message[0]  # FAULT: it may have been read before the flag was


@cuda.jit
def flag_with_fences(message, flag, out):
    if cuda.blockIdx.x == 0:
        message[0] = float32(42)
        cuda.threadfence()
        cuda.atomic.exch(flag, 0, 1)
    else:
        while cuda.atomic.add(flag, 0, 0) == 0:
            pass
        cuda.threadfence()
        out[0] = message[0]


@cuda.jit
def last_block_without_fence(x, partial, tickets, out):
    """Each block leaves a sum; the last to finish adds them up."""
    block = cuda.blockIdx.x
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
    if cuda.threadIdx.x == 0:
        partial[block] = value  # FAULT: the ticket may be seen before the sum
        if cuda.atomic.add(tickets, 0, 1) == cuda.gridDim.x - 1:
            total = float32(0)
            for i in range(cuda.gridDim.x):
                total += partial[i]  # FAULT
            out[0] = total


@cuda.jit
def last_block_with_fences(x, partial, tickets, out):
    block = cuda.blockIdx.x
    value = x[cuda.grid(1)]
    for offset in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, offset)
    if cuda.threadIdx.x == 0:
        partial[block] = value
        cuda.threadfence()
        if cuda.atomic.add(tickets, 0, 1) == cuda.gridDim.x - 1:
            cuda.threadfence()
            total = float32(0)
            for i in range(cuda.gridDim.x):
                total += partial[i]
            out[0] = total


@cuda.jit
def last_block_of_threads_without_fence(x, partial, tickets, out):
    """As in NVIDIA's sample threadFenceReduction: all threads of the last block add."""
    t = cuda.threadIdx.x
    is_last = cuda.shared.array(1, int32)
    partial[cuda.grid(1)] = x[cuda.grid(1)] * float32(2)  # FAULT
    cuda.syncthreads()
    if t == 0:
        ticket = cuda.atomic.add(tickets, 0, 1)
        is_last[0] = 1 if ticket == cuda.gridDim.x - 1 else 0
    cuda.syncthreads()
    if is_last[0] == 1:
        total = float32(0)
        for block in range(cuda.gridDim.x):
            total += partial[block * cuda.blockDim.x + t]  # FAULT
        out[t] = total


@cuda.jit
def last_block_of_threads_with_fence(x, partial, tickets, out):
    t = cuda.threadIdx.x
    is_last = cuda.shared.array(1, int32)
    partial[cuda.grid(1)] = x[cuda.grid(1)] * float32(2)
    cuda.threadfence()
    cuda.syncthreads()
    if t == 0:
        ticket = cuda.atomic.add(tickets, 0, 1)
        is_last[0] = 1 if ticket == cuda.gridDim.x - 1 else 0
    cuda.syncthreads()
    if is_last[0] == 1:
        total = float32(0)
        for block in range(cuda.gridDim.x):
            total += partial[block * cuda.blockDim.x + t]
        out[t] = total


@cuda.jit
def syncthreads_for_the_grid(x, squares, out):
    """Square each number, then subtract the right-hand neighbour's square."""
    i = cuda.grid(1)
    squares[i] = x[i] * x[i]  # FAULT
    cuda.syncthreads()
    out[i] = squares[i] - squares[(i + 1) % x.shape[0]]  # FAULT: that may be another block's


@cuda.jit
def grid_synchronised(x, squares, out):
    i = cuda.grid(1)
    squares[i] = x[i] * x[i]
    cuda.cg.this_grid().sync()
    out[i] = squares[i] - squares[(i + 1) % x.shape[0]]


@cuda.jit
def overlapping_blocks(x, out):
    i = cuda.blockIdx.x * (cuda.blockDim.x - 1) + cuda.threadIdx.x
    out[i] = x[i] * float32(cuda.blockIdx.x + 1)  # FAULT: the last of a block, the next's first


@cuda.jit
def adjoining_blocks(x, out):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    out[i] = x[i] * float32(cuda.blockIdx.x + 1)


def flag() -> np.ndarray:
    return np.zeros(1, np.int32)


CASES = (
    Case(
        "two blocks add to one number without an atomic",
        blocks_add_to_one_sum,
        blocks_add_atomically,
        args=lambda: (ramp(64), np.zeros(1, np.float32)),
        want=lambda x, out: x.sum(keepdims=True),
        grid=2,
        threads=(0, 32),
    ),
    Case(
        "a neighbour read that the neighbour overwrites",
        smooth_in_place,
        smooth,
        args=lambda: (ramp(64), zeros(63)),
        want=lambda x, out: x[:-1] + x[1:],
        grid=2,
        threads=range(64),
    ),
    Case(
        "a flag that is a plain variable",
        plain_flag,
        flag_with_fences,
        args=lambda: (zeros(1), flag(), zeros(1)),
        want=lambda message, flag, out: np.array([42]),
        grid=2,
        block=1,
        threads=(0, 1),
    ),
    Case(
        "a message whose flag may overtake it",
        flag_without_fence,
        flag_with_fences,
        args=lambda: (zeros(1), flag(), zeros(1)),
        want=lambda message, flag, out: np.array([42]),
        grid=2,
        block=1,
        threads=(0, 1),
    ),
    Case(
        "a message read before its flag",
        flag_without_the_reader_s_fence,
        flag_with_fences,
        args=lambda: (zeros(1), flag(), zeros(1)),
        want=lambda message, flag, out: np.array([42]),
        grid=2,
        block=1,
        threads=(0, 1),
    ),
    Case(
        "partial results of whole blocks without a fence",
        last_block_of_threads_without_fence,
        last_block_of_threads_with_fence,
        args=lambda: (ramp(96), zeros(96), flag(), zeros(32)),
        want=lambda x, partial, tickets, out: 2 * x.reshape(3, 32).sum(axis=0),
        grid=3,
        threads=range(96),
    ),
    Case(
        "partial sums that the last block's ticket may overtake",
        last_block_without_fence,
        last_block_with_fences,
        args=lambda: (ramp(96), zeros(3), flag(), zeros(1)),
        want=lambda x, partial, tickets, out: x.sum(keepdims=True),
        grid=3,
        threads=(0, 32, 64),
    ),
    Case(
        "a barrier of the block where the grid must meet",
        syncthreads_for_the_grid,
        grid_synchronised,
        args=lambda: (ramp(64), zeros(64), zeros(64)),
        want=lambda x, squares, out: x**2 - np.roll(x**2, -1),
        grid=2,
        threads=(0, 31, 32, 63),
    ),
    Case(
        "blocks that overlap by one element",
        overlapping_blocks,
        adjoining_blocks,
        args=lambda: (ramp(64), zeros(64)),
        want=lambda x, out: x * np.repeat([1, 2], 32),
        grid=2,
        threads=(31, 32),
    ),
)
