"""Right, and the keys lie in rows of 32 words."""
# Rejected: step 4, "loads a key once, and none that nobody sees": of one bank

import math

from numba import cuda, float32, int32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # queries of a block in steps 1 and 2, one a warp
TILE = 32  # queries, or rows, of a block in steps 3 and 4, and keys of a tile
WARPS = 8  # of a block in steps 3 and 4
OWN = TILE // WARPS  # rows of a warp in steps 3 and 4
NOTHING = float32(-math.inf)


@cuda.jit(device=True)
def load_row(source, row, head):
    lane = cuda.threadIdx.x
    return source[row, head, lane] if lane < source.shape[2] else float32(0)


@cuda.jit(device=True)
def score_of_lane(own, k, key, kv_head, position, scale):
    is_seen = key <= position
    score = float32(0)
    for d in range(k.shape[2]):
        component = cuda.shfl_sync(FULL_WARP, own, d)
        if is_seen:
            score += component * k[key, kv_head, d]
    return score * scale if is_seen else NOTHING


@cuda.jit
def attention_scores(q, k, scale, scores):
    query, head = cuda.blockIdx.x * ROWS + cuda.threadIdx.y, cuda.blockIdx.y
    if query < q.shape[0]:
        own = load_row(q, query, head)
        kv_head, position = head // (q.shape[1] // k.shape[1]), k.shape[0] - q.shape[0] + query
        for first in range(0, k.shape[0], WARP):
            key = first + cuda.threadIdx.x
            score = score_of_lane(own, k, key, kv_head, position, scale)
            if key < k.shape[0]:
                scores[head, query, key] = score


@cuda.jit(device=True)
def absorb(score, top, total, mixed):
    larger = max(top, score)
    for distance in (16, 8, 4, 2, 1):
        larger = max(larger, cuda.shfl_xor_sync(FULL_WARP, larger, distance))
    base = larger if larger > NOTHING else float32(0)
    factor, power = math.exp(top - base), math.exp(score - base)
    return larger, total * factor + power, mixed * factor, power


@cuda.jit(device=True)
def finish(total, mixed):
    for distance in (16, 8, 4, 2, 1):
        total += cuda.shfl_xor_sync(FULL_WARP, total, distance)
    return mixed / total


@cuda.jit
def attention_online(q, k, v, scale, out):
    query, head = cuda.blockIdx.x * ROWS + cuda.threadIdx.y, cuda.blockIdx.y
    lane = cuda.threadIdx.x
    if query < q.shape[0]:
        own = load_row(q, query, head)
        kv_head, position = head // (q.shape[1] // k.shape[1]), k.shape[0] - q.shape[0] + query
        top, total, mixed = NOTHING, float32(0), float32(0)
        for first in range(0, position + 1, WARP):
            score = score_of_lane(own, k, first + lane, kv_head, position, scale)
            top, total, mixed, power = absorb(score, top, total, mixed)
            for u in range(min(WARP, position + 1 - first)):
                weight = cuda.shfl_sync(FULL_WARP, power, u)
                if lane < v.shape[2]:
                    mixed += weight * v[first + u, kv_head, lane]
        result = finish(total, mixed)
        if lane < out.shape[2]:
            out[query, head, lane] = result


@cuda.jit(device=True)
def fill(tile, source, first, kv_head):
    d = cuda.threadIdx.x
    for r in range(cuda.threadIdx.y, TILE, WARPS):
        if d < source.shape[2]:
            inside = first + r < source.shape[0]
            tile[r, d] = source[first + r, kv_head, d] if inside else float32(0)


@cuda.jit(device=True)
def attend_tile(own, positions, first, k_tile, v_tile, D, scale, tops, totals, mixed):
    lane = cuda.threadIdx.x
    powers = cuda.local.array(OWN, float32)
    for r in range(OWN):
        powers[r] = float32(0)
    for d in range(D):
        component = k_tile[lane, d]
        for r in range(OWN):
            powers[r] += cuda.shfl_sync(FULL_WARP, own[r], d) * component
    for r in range(OWN):
        score = powers[r] * scale if first + lane <= positions[r] else NOTHING
        tops[r], totals[r], mixed[r], powers[r] = absorb(score, tops[r], totals[r], mixed[r])
    for u in range(TILE):
        component = v_tile[u, lane] if lane < D else float32(0)
        for r in range(OWN):
            mixed[r] += cuda.shfl_sync(FULL_WARP, powers[r], u) * component


@cuda.jit(device=True)
def place(row, group):
    return row // group, cuda.blockIdx.y * group + row % group


@cuda.jit(device=True)
def begin_rows(q, past, group, own, positions, tops, totals, mixed):
    for r in range(OWN):
        query, head = place(cuda.blockIdx.x * TILE + cuda.threadIdx.y * OWN + r, group)
        positions[r], own[r] = -1, float32(0)
        if query < q.shape[0]:
            positions[r], own[r] = past + query, load_row(q, query, head)
        tops[r], totals[r], mixed[r] = NOTHING, float32(0), float32(0)


@cuda.jit(device=True)
def end_rows(totals, mixed, group, out):
    for r in range(OWN):
        query, head = place(cuda.blockIdx.x * TILE + cuda.threadIdx.y * OWN + r, group)
        if query < out.shape[0]:
            result = finish(totals[r], mixed[r])
            if cuda.threadIdx.x < out.shape[2]:
                out[query, head, cuda.threadIdx.x] = result


@cuda.jit
def attention_short(q, k, v, scale, out):
    k_tile = cuda.shared.array((TILE, 33), float32)
    v_tile = cuda.shared.array((TILE, TILE), float32)
    own = cuda.local.array(OWN, float32)
    positions = cuda.local.array(OWN, int32)
    tops = cuda.local.array(OWN, float32)
    totals = cuda.local.array(OWN, float32)
    mixed = cuda.local.array(OWN, float32)
    group, past = q.shape[1] // k.shape[1], k.shape[0] - q.shape[0]

    begin_rows(q, past, group, own, positions, tops, totals, mixed)
    fill(k_tile, k, 0, cuda.blockIdx.y)
    fill(v_tile, v, 0, cuda.blockIdx.y)
    cuda.syncthreads()
    attend_tile(own, positions, 0, k_tile, v_tile, q.shape[2], scale, tops, totals, mixed)
    end_rows(totals, mixed, group, out)


@cuda.jit
def attention(q, k, v, scale, out):
    k_tile = cuda.shared.array((TILE, TILE), float32)
    v_tile = cuda.shared.array((TILE, TILE), float32)
    own = cuda.local.array(OWN, float32)
    positions = cuda.local.array(OWN, int32)
    tops = cuda.local.array(OWN, float32)
    totals = cuda.local.array(OWN, float32)
    mixed = cuda.local.array(OWN, float32)
    group, past = q.shape[1] // k.shape[1], k.shape[0] - q.shape[0]
    last_query, _ = place(cuda.blockIdx.x * TILE + TILE - 1, group)
    seen = min(past + last_query + 1, k.shape[0])  # keys of the block's last row

    begin_rows(q, past, group, own, positions, tops, totals, mixed)
    for first in range(0, seen, TILE):
        fill(k_tile, k, first, cuda.blockIdx.y)
        fill(v_tile, v, first, cuda.blockIdx.y)
        cuda.syncthreads()
        attend_tile(own, positions, first, k_tile, v_tile, q.shape[2], scale, tops, totals, mixed)
        cuda.syncthreads()
    end_rows(totals, mixed, group, out)
