"""The maximum in a first pass, the rest in a second: right, but each key is read twice."""
# Rejected: step 4, "reads each key once, by rows": k_cache
# Too slow: step 4


@cuda.jit
def paged_decode(q, k_cache, v_cache, block_tables, context_lens, scale, out):
    head, sequence, lane = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    kv_head = head // (q.shape[1] // k_cache.shape[2])
    block_size = k_cache.shape[1]
    query = q[sequence, head, lane] * scale
    maximum, total, mix = MINUS_INFINITY, float32(0), float32(0)
    for t in range(context_lens[sequence]):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        maximum = max(maximum, warp_sum(query * k_cache[block, inner, kv_head, lane]))
    for t in range(context_lens[sequence]):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = warp_sum(query * k_cache[block, inner, kv_head, lane])
        weight = math.exp(score - maximum)
        total += weight
        mix += weight * v_cache[block, inner, kv_head, lane]
    out[sequence, head, lane] = mix / total if total > float32(0) else float32(0)
