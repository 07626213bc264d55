"""Attention as its formula reads, and then with no score in memory: the first two steps.

::

    naive     three kernels, and H S T scores between them
              scores     thread = (head, query, key)     q times k, D products
              softmax    block = (head, query)           as in the softmax ladder
              values     thread = (query, head, d)       weights times v, T products

    online    one kernel; a warp = (query, head)
              32 keys at a time:   lane = key            its score, D products
                                   warp                  the row's maximum and sum so far
                                   lane = component      32 weights times 32 values

A naive H S T float32 numbers are written once, read three times and written again by the softmax,
and read by the values' kernel: 24 bytes a score. At S = T = 8192 and H = 32 that is 51 GB.

Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import FULL_WARP, WARP, warp_max, warp_sum
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

WARPS = 8
MAX_HEAD_DIM = 256
COLUMNS = MAX_HEAD_DIM // WARP  # components of an output that a lane may have to keep


@cuda.jit
def attention_scores(q, k, scale, window, scores):
    """Multiply each query by each key of its KV head: one thread a score.

    The lanes of a warp take neighbouring keys, which lie G D numbers apart: 32 sectors a request.
    """
    key = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    query, head = cuda.blockIdx.y, cuda.blockIdx.z
    if key >= k.shape[0]:
        return
    kv_head = head // (q.shape[1] // k.shape[1])
    position = k.shape[0] - q.shape[0] + query
    score = MINUS_INFINITY
    if key <= position and key > position - window:
        score = float32(0)
        for d in range(q.shape[2]):
            score += ptx.to_float(q[query, head, d]) * ptx.to_float(k[key, kv_head, d])
        score *= scale
    scores[head, query, key] = score


@cuda.jit
def attention_values(weights, v, window, out):
    """Mix the values that a query sees: one thread an output, neighbours side by side."""
    d, query, head = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    kv_head = head // (out.shape[1] // v.shape[1])
    position = v.shape[0] - out.shape[0] + query
    total = float32(0)
    for key in range(max(0, position - window + 1), position + 1):
        total += weights[head, query, key] * ptx.to_float(v[key, kv_head, d])
    out[query, head, d] = ptx.from_float(out, total)


@cuda.jit
def attention_online(q, k, v, scale, window, out):
    r"""One warp a query and head, and the scores never leave it.

    The softmax of 32 keys is not the row's: weights of each 32 would sum to 1. What is kept of the
    keys so far is their largest score m, the sum l of :math:`2^{s - m}`, and the output times l.
    The next 32 may bring a larger m; then l and the output shrink by :math:`2^{m_{old} - m_{new}}`,
    and all is as if that m had been known from the start.

    Still, the keys of a head are read again by each of its queries, and a lane by itself.
    """
    row = cuda.shared.array((WARPS, MAX_HEAD_DIM), float32)
    mixed = cuda.local.array(COLUMNS, float32)
    lane, warp, head = cuda.threadIdx.x, cuda.threadIdx.y, cuda.blockIdx.y
    query = cuda.blockIdx.x * WARPS + warp
    if query >= q.shape[0]:
        return
    kv_head, D = head // (q.shape[1] // k.shape[1]), q.shape[2]
    position = k.shape[0] - q.shape[0] + query
    for d in range(lane, D, WARP):
        row[warp, d] = ptx.to_float(q[query, head, d])
    for c in range(COLUMNS):
        mixed[c] = float32(0)
    cuda.syncwarp()

    top, total = MINUS_INFINITY, float32(0)
    for first in range(max(0, position - window + 1), position + 1, WARP):
        score = MINUS_INFINITY
        if first + lane <= position:
            score = float32(0)
            for d in range(D):
                score += row[warp, d] * ptx.to_float(k[first + lane, kv_head, d])
            score *= scale
        larger = ptx.maximum(top, warp_max(score))
        base = reference_point(larger)
        factor, power = ptx.exp2(top - base), ptx.exp2(score - base)
        total, top = total * factor + power, larger  # of a lane's own keys, till the end
        for c in range(COLUMNS):
            mixed[c] *= factor
        for u in range(min(WARP, position + 1 - first)):
            weight = cuda.shfl_sync(FULL_WARP, power, u)
            for c in range(COLUMNS):
                if lane + c * WARP < D:
                    mixed[c] += weight * ptx.to_float(v[first + u, kv_head, lane + c * WARP])

    inverse = inverse_or_one(warp_sum(total))
    for c in range(COLUMNS):
        if lane + c * WARP < D:
            out[query, head, lane + c * WARP] = ptx.from_float(out, mixed[c] * inverse)
