r"""What the decoding kernels have in common: who does what, and how parts of a context merge.

A *part* is some of the positions of a context, as one query head sees them. It is summed up by

.. math:: m = \max_t s_t \qquad l = \sum_t 2^{s_t - m} \qquad a = \sum_t 2^{s_t - m} v_t

over its positions t, with scores s and values v. Two parts merge, in any order, by the rule of the
online softmax; the part of no position is (:math:`-\infty`, 0, 0). When all are merged, a / l is
the result. Warps of a block merge in shared memory, and blocks that share a context in global
memory, both by :func:`merged`.
"""

from numba import cuda, float32, uint32, uint64

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point

WARP = 32
WARPS = 4
THREADS = WARPS * WARP
MAX_HEAD_DIM = 256


@cuda.jit(device=True)
def visible(context_lens, window, sequence):
    """Return the first position that a sequence's new token sees, and the one past the last."""
    context = context_lens[sequence]
    return max(0, context - window), context


@cuda.jit(device=True)
def place_of(block, heads, num_heads, num_kv_heads):
    """Say what a block is for, of a grid with one for each share of a KV head's query heads.

    Parameters
    ----------
    block : int
    heads : int
        Query heads of a share; the last one may have fewer.
    num_heads, num_kv_heads : int
        H and G.

    Returns
    -------
    sequence, kv_head : int
    first_head, here : int
        Its first query head, and how many of them it has.
    """
    group = num_heads // num_kv_heads
    shares = (group + heads - 1) // heads
    kv_block, first = block // shares, block % shares * heads
    sequence, kv_head = kv_block // num_kv_heads, kv_block % num_kv_heads
    return sequence, kv_head, kv_head * group + first, min(heads, group - first)


@cuda.jit(device=True)
def row_of(block_tables, block_size, sequence, position):
    """Return the row of the cache [num_blocks * block_size, G, D] that a position lies in.

    In unsigned arithmetic: the compiler need not think of positions below zero, which Python
    counts from the end and divides downwards.
    """
    size, position = uint32(block_size), uint32(position)
    block = block_tables[uint32(sequence), position // size]
    return uint64(uint32(block)) * size + position % size


@cuda.jit(device=True)
def merged(maxima, sums, mixed, first, count, step, head_dim, d):
    """Merge parts of one query head, for one number of the head dimension.

    Parameters
    ----------
    maxima, sums : float32 [parts * step]
    mixed : float32 [parts * step * D]
    first, count, step : int
        Which of them: first, first + step, and so on, so many.
    head_dim, d : int
        D, and which of the D numbers.

    Returns
    -------
    maximum, total, mix : float32
    """
    maximum = MINUS_INFINITY
    for n in range(count):
        maximum = max(maximum, maxima[first + n * step])
    base = reference_point(maximum)
    total, mix = float32(0), float32(0)
    for n in range(count):
        part = first + n * step
        factor = ptx.exp2(maxima[part] - base)
        total += sums[part] * factor
        mix += mixed[part * head_dim + d] * factor
    return maximum, total, mix


@cuda.jit(device=True)
def store_merged(maxima, sums, mixed, parts, heads, place, out):
    """Merge the parts of a block, and store the results of its query heads.

    Parameters
    ----------
    maxima, sums : shared float32 [parts, heads], flat
    mixed : shared float32 [parts, heads, D], flat
    parts, heads : int
    place : tuple
        Of :func:`place_of`.
    out : array [B, H, D]
    """
    sequence, _, first_head, here = place
    head_dim = out.shape[2]
    for i in range(cuda.threadIdx.x, here * head_dim, cuda.blockDim.x):
        h, d = i // head_dim, i % head_dim
        _, total, mix = merged(maxima, sums, mixed, h, parts, heads, head_dim, d)
        value = mix * inverse_or_one(total)
        out[sequence, first_head + h, d] = ptx.from_float(out, value)
