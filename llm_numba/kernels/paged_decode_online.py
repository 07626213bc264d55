"""The first steps of the decoding ladder: a block a query head.

::

    naive      thread      key t, all D numbers         lanes 32 keys apart from each other
    online     warp        key t, lane i has numbers i, i + 32, i + 64, ... of D
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_parts import (
    MAX_HEAD_DIM,
    WARP,
    WARPS,
    place_of,
    store_merged,
    visible,
)
from llm_numba.kernels.reduce import warp_sum
from llm_numba.kernels.rows import MAX_WARPS, MINUS_INFINITY, max_over_row, sum_over_row
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

_SLICES = MAX_HEAD_DIM // WARP
_MIXED = WARPS * MAX_HEAD_DIM


@cuda.jit
def decode_naive(q, k_cache, v_cache, block_tables, context_lens, scale, window, scores, out):
    """Materialise the scores: a block a query head, a thread a key, then a thread a column.

    Lanes read 32 keys, which lie G D numbers apart: 32 sectors a request. Each query head reads
    all keys and values of its group again, and the scores go to memory and come back twice.
    """
    maxima, sums = cuda.shared.array(MAX_WARPS, float32), cuda.shared.array(MAX_WARPS, float32)
    row, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    sequence, kv_head, head, _ = place_of(row, 1, q.shape[1], k_cache.shape[2])
    begin, end = visible(context_lens, window, sequence)
    block_size, head_dim = k_cache.shape[1], q.shape[2]
    maximum = MINUS_INFINITY
    for t in range(begin + first, end, step):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = float32(0)
        for d in range(head_dim):
            key = ptx.to_float(k_cache[block, inner, kv_head, d])
            score += ptx.to_float(q[sequence, head, d]) * key
        scores[row, t] = score * scale
        maximum = max(maximum, score * scale)
    base = reference_point(max_over_row(maximum, maxima))
    total = float32(0)
    for t in range(begin + first, end, step):
        scores[row, t] = ptx.exp2(scores[row, t] - base)
        total += scores[row, t]
    # Its barrier also shows each thread the weights of all others.
    inverse = inverse_or_one(sum_over_row(total, sums))
    for d in range(first, head_dim, step):
        mix = float32(0)
        for t in range(begin, end):
            block, inner = block_tables[sequence, t // block_size], t % block_size
            mix += scores[row, t] * ptx.to_float(v_cache[block, inner, kv_head, d])
        out[sequence, head, d] = ptx.from_float(out, mix * inverse)


@cuda.jit
def decode_online(q, k_cache, v_cache, block_tables, context_lens, scale, window, out):
    """One pass: a warp a key, and its value at once, while maximum and sum are those so far.

    Lanes lie along D, so that each request is without gaps. What was mixed before a larger score
    came is scaled down by it. No score is stored. The warps' parts merge at the end.
    """
    maxima, sums = cuda.shared.array(WARPS, float32), cuda.shared.array(WARPS, float32)
    mixed = cuda.shared.array(_MIXED, float32)
    query, mix = cuda.local.array(_SLICES, float32), cuda.local.array(_SLICES, float32)
    warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
    place = place_of(cuda.blockIdx.x, 1, q.shape[1], k_cache.shape[2])
    sequence, kv_head, head, _ = place
    block_size, head_dim = k_cache.shape[1], q.shape[2]
    for i in range(_SLICES):
        d, mix[i], query[i] = lane + i * WARP, float32(0), float32(0)
        if d < head_dim:
            query[i] = ptx.to_float(q[sequence, head, d]) * scale
    maximum, total = MINUS_INFINITY, float32(0)
    begin, end = visible(context_lens, window, sequence)
    for t in range(begin + warp, end, WARPS):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = float32(0)
        for i in range(_SLICES):
            if lane + i * WARP < head_dim:
                key = ptx.to_float(k_cache[block, inner, kv_head, lane + i * WARP])
                score += query[i] * key
        score = warp_sum(score)
        larger = max(maximum, score)
        base = reference_point(larger)
        factor, weight = ptx.exp2(maximum - base), ptx.exp2(score - base)
        total = total * factor + weight
        for i in range(_SLICES):
            if lane + i * WARP < head_dim:
                value = ptx.to_float(v_cache[block, inner, kv_head, lane + i * WARP])
                mix[i] = mix[i] * factor + weight * value
        maximum = larger

    maxima[warp], sums[warp] = maximum, total
    for i in range(_SLICES):
        if lane + i * WARP < head_dim:
            mixed[warp * head_dim + lane + i * WARP] = mix[i]
    cuda.syncthreads()
    store_merged(maxima, sums, mixed, WARPS, 1, place, out)
