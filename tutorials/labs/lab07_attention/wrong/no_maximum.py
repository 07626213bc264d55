"""Powers are taken of the scores as they are."""
# Rejected: step 2, "is stable": wrong

import math

from numba import cuda, float32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # queries of a block in steps 1 and 2, one a warp
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
    power = math.exp(score)
    return top, total + power, mixed, power


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
