# Keep the positive numbers: the lanes of a warp share one atomic.
from numba import cuda


@cuda.jit(device=True)
def atomic_agg_inc(counter):
    mask = cuda.activemask()
    leader = cuda.ffs(mask) - 1
    lane = cuda.laneid
    warp_res = 0
    if lane == leader:
        warp_res = cuda.atomic.add(counter, 0, cuda.popc(mask))
    warp_res = cuda.shfl_sync(mask, warp_res, leader)
    return warp_res + cuda.popc(mask & cuda.lanemask_lt())


@cuda.jit
def filter_positive(src, dst, counter):
    i = cuda.grid(1)
    if i >= src.size:
        return
    if src[i] > 0:
        dst[atomic_agg_inc(counter)] = src[i]


@cuda.jit
def count_by_key(keys, counts):
    i = cuda.grid(1)
    if i < keys.size:
        key = keys[i]
        peers = cuda.match_any_sync(cuda.activemask(), key)
        if cuda.laneid == cuda.ffs(peers) - 1:
            cuda.atomic.add(counts, key, cuda.popc(peers))
