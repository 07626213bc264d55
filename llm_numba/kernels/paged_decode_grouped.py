"""Decoding for the query heads of a KV head together: the step ``grouped``.

::

    lane     0    1    2   ...  31   0    1   ...  31
    d        0    1    2   ...  31   32   33  ...  63       a warp has a position,
    warp     w: positions begin + w, begin + w + 4, ...     its lanes the numbers d

As in the step before it, a score is a sum over the warp, and each lane mixes the numbers of the
values that it loaded itself. New is the loop over the query heads around both.
"""

import functools

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_parts import (
    THREADS,
    WARP,
    WARPS,
    place_of,
    store_merged,
    visible,
)
from llm_numba.kernels.reduce import warp_sum
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import reference_point


@functools.cache
def decode_grouped(heads, slices):
    """Make the kernel for so many query heads of a block, and head dimensions up to 32 * slices.

    Parameters
    ----------
    heads : int
        1, 2, 4 or 8: those of a group, or a share of them. What is held grows with them.
    slices : int
        Numbers of a key in a lane.
    """
    held, parts = heads * slices, WARPS * heads
    mixed_size = parts * slices * WARP

    @cuda.jit(launch_bounds=THREADS)
    def grouped(q, k_cache, v_cache, block_tables, context_lens, scale, window, out):
        """Use each number of a key or value for all query heads while it is in a register.

        With H / G heads a group, memory is read that many times less.
        """
        maxima = cuda.shared.array(parts, float32)
        sums = cuda.shared.array(parts, float32)
        mixed = cuda.shared.array(mixed_size, float32)
        query, mix = cuda.local.array(held, float32), cuda.local.array(held, float32)
        maximum, total = cuda.local.array(heads, float32), cuda.local.array(heads, float32)
        keys, values = cuda.local.array(slices, float32), cuda.local.array(slices, float32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        place = place_of(cuda.blockIdx.x, heads, q.shape[1], k_cache.shape[2])
        sequence, kv_head, first_head, here = place
        head_dim, block_size = q.shape[2], k_cache.shape[1]
        for h in range(heads):
            maximum[h], total[h] = MINUS_INFINITY, float32(0)
            for i in range(slices):
                d = lane + i * WARP
                mix[h * slices + i], query[h * slices + i] = float32(0), float32(0)
                if h < here and d < head_dim:
                    query[h * slices + i] = ptx.to_float(q[sequence, first_head + h, d]) * scale

        begin, end = visible(context_lens, window, sequence)
        for position in range(begin + warp, end, WARPS):
            block, inner = block_tables[sequence, position // block_size], position % block_size
            for i in range(slices):
                d = min(lane + i * WARP, head_dim - 1)  # beyond the last, a query of zeros
                keys[i] = ptx.to_float(k_cache[block, inner, kv_head, d])
                values[i] = ptx.to_float(v_cache[block, inner, kv_head, d])
            for h in range(heads):
                score = float32(0)
                for i in range(slices):
                    score += query[h * slices + i] * keys[i]
                score = warp_sum(score)
                larger = max(maximum[h], score)
                base = reference_point(larger)
                factor, weight = ptx.exp2(maximum[h] - base), ptx.exp2(score - base)
                total[h] = total[h] * factor + weight
                for i in range(slices):
                    mix[h * slices + i] = mix[h * slices + i] * factor + weight * values[i]
                maximum[h] = larger

        for h in range(heads):
            maxima[warp * heads + h], sums[warp * heads + h] = maximum[h], total[h]
            for i in range(slices):
                if lane + i * WARP < head_dim:
                    d = lane + i * WARP
                    mixed[(warp * heads + h) * head_dim + d] = mix[h * slices + i]
        cuda.syncthreads()
        store_merged(maxima, sums, mixed, WARPS, heads, place, out)

    return grouped
