"""Right, and each thread takes a stretch of the row for itself: lanes stand far apart."""
# Rejected: step 3, "reads twice, writes once, meets once": sectors
# Too slow: step 3


@cuda.jit(device=True)
def stretch_of_thread(begin, end):
    each = (end - begin + THREADS - 1) // THREADS
    first = begin + cuda.threadIdx.x * each
    return first, min(first + each, end)


@cuda.jit(device=True)
def part_of_block(x, row, begin, end, tops, totals):
    top, total = NOTHING, float32(0)
    first, last = stretch_of_thread(begin, end)
    for n in range(first, last):
        top, total = merge(top, total, x[row, n], float32(1))
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
    first, last = stretch_of_thread(0, N)
    for n in range(first, last):
        y[row, n] = math.exp(x[row, n] - base) * inverse
