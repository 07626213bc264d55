"""All slots of the last block are read; those that are unused get the weight 0."""
# Rejected: step 4, "attends to every position": 0 times NaN


@cuda.jit
def paged_decode(q, k_cache, v_cache, block_tables, context_lens, scale, out):
    head, sequence, lane = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    kv_head = head // (q.shape[1] // k_cache.shape[2])
    block_size = k_cache.shape[1]
    query = q[sequence, head, lane] * scale
    maximum, total, mix = MINUS_INFINITY, float32(0), float32(0)
    length = context_lens[sequence]
    for t in range((length + block_size - 1) // block_size * block_size):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = warp_sum(query * k_cache[block, inner, kv_head, lane])
        if t >= length:
            score = MINUS_INFINITY
        larger = max(maximum, score)
        factor, weight = math.exp(maximum - larger), math.exp(score - larger)
        total = total * factor + weight
        mix = mix * factor + weight * v_cache[block, inner, kv_head, lane]
        maximum = larger
    out[sequence, head, lane] = mix / total if total > float32(0) else float32(0)
