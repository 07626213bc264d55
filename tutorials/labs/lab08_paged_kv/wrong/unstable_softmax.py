"""The softmax without its maximum: right for small scores, infinite for large ones."""
# Rejected: step 4, "stands large scores, and no tokens at all": exp overflowed


@cuda.jit
def paged_decode(q, k_cache, v_cache, block_tables, context_lens, scale, out):
    head, sequence, lane = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    kv_head = head // (q.shape[1] // k_cache.shape[2])
    block_size = k_cache.shape[1]
    query = q[sequence, head, lane] * scale
    total, mix = float32(0), float32(0)
    for t in range(context_lens[sequence]):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = warp_sum(query * k_cache[block, inner, kv_head, lane])
        weight = math.exp(score)
        total += weight
        mix += weight * v_cache[block, inner, kv_head, lane]
    out[sequence, head, lane] = mix / total if total > float32(0) else float32(0)
