"""A query does not see the key at its own position."""
# Rejected: step 1, "finds all scores": -inf


@cuda.jit(device=True)
def score_of_lane(own, k, key, kv_head, position, scale):
    is_seen = key < position
    score = float32(0)
    for d in range(k.shape[2]):
        component = cuda.shfl_sync(FULL_WARP, own, d)
        if is_seen:
            score += component * k[key, kv_head, d]
    return score * scale if is_seen else NOTHING
