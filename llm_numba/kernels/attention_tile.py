"""Fused attention in tiles: 32 queries share each key and value that comes in.

A block has 32 rows, pairs of a query and one of the R = H/G heads that read the same KV head, and
walks over the keys that they see, 32 at a time:

::

    row of the tile     0          1          ...  R - 1        R          ...
    query, head         s, gR      s, gR + 1  ...  s, gR + R-1  s + 1, gR  ...

    shared memory             a warp owns 4 rows                 what its lanes are
    q_tile [32, D]   once     scores  q_tile[row] . k_tile[lane]       32 keys
    k_tile [32, D]            softmax of the online rule, by shuffles  32 keys
    v_tile [32, D]            mixed[row, lane + 32 c]                  32 components

Each key and value is loaded once for 32 rows, where the online step loads it for each. The lanes
read k_tile down a column. With rows of D words, and D a multiple of 32, that is 32 words of one
bank; with rows of D + 1 words it is 32 different banks. Both steps run this kernel, which is told
the pitch.

Source: Dao et al., "FlashAttention", 2022.
"""

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_naive import COLUMNS
from llm_numba.kernels.attention_places import divided
from llm_numba.kernels.reduce import FULL_WARP, WARP, warp_max, warp_sum
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

TILE = 32
WARPS = 8
ROWS_A_WARP = TILE // WARPS


def tile_bytes(pitch: int) -> int:
    """Return the dynamic shared memory of a block."""
    return 3 * TILE * pitch * 4


@cuda.jit(device=True)
def stage(tile, at, pitch, rows, first, end, head):
    """Copy 32 rows of one KV head into shared memory, widened; zeros from row `end` on."""
    for row in range(cuda.threadIdx.y, TILE, WARPS):
        for d in range(cuda.threadIdx.x, rows.shape[2], WARP):
            inside = first + row < end
            value = ptx.to_float(rows[first + row, head, d]) if inside else float32(0)
            tile[at + row * pitch + d] = value


@cuda.jit(device=True)
def stage_queries(tile, pitch, q, first, group, kv_head):
    """Copy 32 pairs of a query and a head into shared memory; zeros beyond the last."""
    for row in range(cuda.threadIdx.y, TILE, WARPS):
        query, member = divided(first + row, group)
        for d in range(cuda.threadIdx.x, q.shape[2], WARP):
            inside = query < q.shape[0]
            value = ptx.to_float(q[query, kv_head * group + member, d]) if inside else float32(0)
            tile[row * pitch + d] = value


@cuda.jit(device=True)
def score_keys(tile, q_at, k_at, pitch, D, scores):
    """Multiply four rows of queries by the key of this lane."""
    for r in range(ROWS_A_WARP):
        scores[r] = float32(0)
    for d in range(D):
        key = tile[k_at + d]
        for r in range(ROWS_A_WARP):
            scores[r] += tile[q_at + r * pitch + d] * key


@cuda.jit(device=True)
def merge(score, r, tops, sums, mixed):
    """Add 32 scores to what is known of row r, by the online rule; return this lane's power."""
    larger = ptx.maximum(tops[r], warp_max(score))
    base = reference_point(larger)
    factor, power = ptx.exp2(tops[r] - base), ptx.exp2(score - base)
    sums[r] = sums[r] * factor + power
    tops[r] = larger
    for c in range(COLUMNS):
        mixed[r, c] *= factor
    return power


@cuda.jit(device=True)
def mix(tile, v_at, pitch, D, powers, mixed):
    """Add 32 powers times 32 values to four rows of outputs."""
    weights = cuda.local.array(ROWS_A_WARP, float32)
    for u in range(TILE):
        for r in range(ROWS_A_WARP):
            weights[r] = cuda.shfl_sync(FULL_WARP, powers[r], u)
        for c in range(COLUMNS):
            d = cuda.threadIdx.x + c * WARP
            if d < D:
                value = tile[v_at + u * pitch + d]
                for r in range(ROWS_A_WARP):
                    mixed[r, c] += weights[r] * value


@cuda.jit
def attention_tile(q, k, v, scale, window, pitch, out):
    """Walk over the keys that 32 rows see; what a warp keeps of its four rows is in registers."""
    tile = cuda.shared.array(0, float32)
    mixed = cuda.local.array((ROWS_A_WARP, COLUMNS), float32)
    tops = cuda.local.array(ROWS_A_WARP, float32)
    sums = cuda.local.array(ROWS_A_WARP, float32)
    powers = cuda.local.array(ROWS_A_WARP, float32)
    lane, kv_head, D = cuda.threadIdx.x, cuda.blockIdx.y, q.shape[2]
    group, past = q.shape[1] // k.shape[1], k.shape[0] - q.shape[0]
    first, row = cuda.blockIdx.x * TILE, cuda.threadIdx.y * ROWS_A_WARP
    k_tile, v_tile = TILE * pitch, 2 * TILE * pitch
    lowest = max(0, past + divided(first, group)[0] - window + 1)
    end = past + min(divided(first + TILE - 1, group)[0], q.shape[0] - 1) + 1

    stage_queries(tile, pitch, q, first, group, kv_head)
    for r in range(ROWS_A_WARP):
        tops[r], sums[r] = MINUS_INFINITY, float32(0)
        for c in range(COLUMNS):
            mixed[r, c] = float32(0)
    for first_key in range(lowest, end, TILE):
        stage(tile, k_tile, pitch, k, first_key, end, kv_head)
        stage(tile, v_tile, pitch, v, first_key, end, kv_head)
        cuda.syncthreads()
        score_keys(tile, row * pitch, k_tile + lane * pitch, pitch, D, powers)
        for r in range(ROWS_A_WARP):
            after = past + divided(first + row + r, group)[0] - (first_key + lane)
            score = powers[r] * scale if after >= 0 and after < window else MINUS_INFINITY
            powers[r] = merge(score, r, tops, sums, mixed)
        mix(tile, v_tile, pitch, D, powers, mixed)
        cuda.syncthreads()  # nobody may overwrite the tiles while somebody still reads them

    for r in range(ROWS_A_WARP):
        inverse = inverse_or_one(warp_sum(sums[r]))
        query, member = divided(first + row + r, group)
        for c in range(COLUMNS):
            d = lane + c * WARP
            if query < q.shape[0] and d < D:
                value = ptx.from_float(out, mixed[r, c] * inverse)
                out[query, kv_head * group + member, d] = value
