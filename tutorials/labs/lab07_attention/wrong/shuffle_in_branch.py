"""Only lanes whose key is seen take part in the shuffles."""
# Rejected: step 1, "finds all scores": warp-wide

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
        if is_seen:
            score += cuda.shfl_sync(FULL_WARP, own, d) * k[key, kv_head, d]
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
