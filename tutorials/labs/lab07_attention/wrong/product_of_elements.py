"""The score is a lane's own product, and nobody adds the products up."""
# Rejected: step 1, "finds all scores": wrong


@cuda.jit(device=True)
def score_of_lane(own, k, key, kv_head, position, scale):
    is_seen = key <= position
    score = float32(0)
    d = cuda.threadIdx.x
    if is_seen and d < k.shape[2]:
        score = own * k[key, kv_head, d]
    return score * scale if is_seen else NOTHING
