"""Right, and the maximum is found in a pass of its own."""
# Rejected: step 3, "reads twice, writes once, meets once": x is read 2 times

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # rows of a block in step 1
WARPS = 4  # warps of a block in steps 3 and 4
THREADS = WARPS * WARP
NOTHING = float32(-math.inf)  # the largest of no numbers


@cuda.jit
def softmax_stable(x, y):
    row = cuda.blockIdx.x * ROWS + cuda.threadIdx.y
    if row < x.shape[0]:
        top = NOTHING
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            top = max(top, x[row, n])
        for distance in (16, 8, 4, 2, 1):
            top = max(top, cuda.shfl_xor_sync(FULL_WARP, top, distance))
        if top == NOTHING:
            top = float32(0)
        total = float32(0)
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            total += math.exp(x[row, n] - top)
        for distance in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(FULL_WARP, total, distance)
        inverse = float32(1) / total if total > float32(0) else float32(0)
        for n in range(cuda.threadIdx.x, x.shape[1], WARP):
            y[row, n] = math.exp(x[row, n] - top) * inverse


@cuda.jit(device=True)
def merge(top_a, total_a, top_b, total_b):
    top = max(top_a, top_b)
    base = top if top > NOTHING else float32(0)
    return top, total_a * math.exp(top_a - base) + total_b * math.exp(top_b - base)


@cuda.jit
def merge_pairs(tops_a, totals_a, tops_b, totals_b, tops, totals):
    i = cuda.grid(1)
    if i < tops.size:
        tops[i], totals[i] = merge(tops_a[i], totals_a[i], tops_b[i], totals_b[i])


@cuda.jit(device=True)
def part_of_block(x, row, begin, end, tops, totals):
    top, total = NOTHING, float32(0)
    for n in range(begin + cuda.threadIdx.x, end, THREADS):
        top = max(top, x[row, n])
    base = top if top > NOTHING else float32(0)
    for n in range(begin + cuda.threadIdx.x, end, THREADS):
        total += math.exp(x[row, n] - base)
    for distance in (16, 8, 4, 2, 1):
        other_top = cuda.shfl_xor_sync(FULL_WARP, top, distance)
        other_total = cuda.shfl_xor_sync(FULL_WARP, total, distance)
        top, total = merge(top, total, other_top, other_total)
    if cuda.threadIdx.x % WARP == 0:
        tops[cuda.threadIdx.x // WARP] = top
        totals[cuda.threadIdx.x // WARP] = total
    cuda.syncthreads()
    top, total = NOTHING, float32(0)
    for warp in range(WARPS):
        top, total = merge(top, total, tops[warp], totals[warp])
    return top, total


@cuda.jit
def softmax_online(x, y):
    tops = cuda.shared.array(WARPS, float32)
    totals = cuda.shared.array(WARPS, float32)
    row, N = cuda.blockIdx.x, x.shape[1]
    top, total = part_of_block(x, row, 0, N, tops, totals)
    base = top if top > NOTHING else float32(0)
    inverse = float32(1) / total if total > float32(0) else float32(0)
    for n in range(cuda.threadIdx.x, N, THREADS):
        y[row, n] = math.exp(x[row, n] - base) * inverse
