"""Query heads take KV heads in turn, not in groups of neighbours."""
# Rejected: step 4, "lets a group of query heads share a KV head": wrong


@cuda.jit
def paged_decode(q, k_cache, v_cache, block_tables, context_lens, scale, out):
    head, sequence, lane = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    kv_head = head % k_cache.shape[2]
    block_size = k_cache.shape[1]
    query = q[sequence, head, lane] * scale
    maximum, total, mix = MINUS_INFINITY, float32(0), float32(0)
    for t in range(context_lens[sequence]):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = warp_sum(query * k_cache[block, inner, kv_head, lane])
        larger = max(maximum, score)
        factor, weight = math.exp(maximum - larger), math.exp(score - larger)
        total = total * factor + weight
        mix = mix * factor + weight * v_cache[block, inner, kv_head, lane]
        maximum = larger
    out[sequence, head, lane] = mix / total if total > float32(0) else float32(0)
