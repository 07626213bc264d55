"""Only lanes whose key is seen take part in the shuffles."""
# Rejected: step 1, "finds all scores": warp-wide


@cuda.jit(device=True)
def score_of_lane(own, k, key, kv_head, position, scale):
    is_seen = key <= position
    score = float32(0)
    for d in range(k.shape[2]):
        if is_seen:
            score += cuda.shfl_sync(FULL_WARP, own, d) * k[key, kv_head, d]
    return score * scale if is_seen else NOTHING
