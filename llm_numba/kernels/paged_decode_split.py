r"""The step ``split``: pieces of a context for different blocks, and a kernel that merges them.

One long context has G blocks in the steps before, for more than a hundred SMs. So contexts are cut
into pieces of as many positions, counted from position 0, and each piece has a block:

::

    context of 5000      | piece 0 | piece 1 | piece 2 | piece 3 | piece 4 |  (5)  |  (6)  |
    pieces of 1024         block     block     block     block     904 left   leave at once
                              \         \         |         /         /
                               m, l, a of each, in a workspace: merged by a second kernel

How long a piece is must come from the shapes: the lengths lie on the device, and a host that
waited for them would stop the stream. The merging kernel looks only at pieces that are there.
"""

import functools

from numba import cuda, float32

from llm_numba.kernels import ptx
from llm_numba.kernels.paged_decode_packets import attend_from_ring
from llm_numba.kernels.paged_decode_parts import WARP, merged, place_of, visible
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one, reference_point
from llm_numba.runtime import starts_early

MERGE_THREADS = 256
_MERGE_NUMBERS = 4 * MERGE_THREADS


@functools.cache
def decode_split(layout, stages):
    """Make the kernel that takes a piece a block.

    Parameters
    ----------
    layout : Layout
    stages : int
    """
    parts, heads, head_dim = layout.parts, layout.heads, layout.head_dim
    statistics = parts * heads
    attend = attend_from_ring(layout, stages)

    @starts_early
    @cuda.jit(launch_bounds=WARP * layout.warps)
    def split(
        q, k_cache, v_cache, block_tables, context_lens, scale, window, piece,
        piece_maxima, piece_sums, piece_mixed,
    ):  # fmt: skip
        """Take one piece of a context, and leave what it comes to in the workspace."""
        ptx.release_next_kernel()
        ptx.await_previous_kernel()
        maxima = cuda.shared.array(statistics, float32)
        sums = cuda.shared.array(statistics, float32)
        mixed = cuda.shared.array(0, float32)
        place = place_of(cuda.blockIdx.x, heads, q.shape[1], k_cache.shape[2])
        sequence, _, first_head, here = place
        begin, end = visible(context_lens, window, sequence)
        begin = max(begin, cuda.blockIdx.y * piece)
        end = min(end, (cuda.blockIdx.y + 1) * piece)
        if begin >= end:
            return
        attend(q, k_cache, v_cache, block_tables, begin, end, scale, place, maxima, sums, mixed)
        to = (sequence * cuda.gridDim.y + cuda.blockIdx.y) * q.shape[1] + first_head
        for i in range(cuda.threadIdx.x, here * head_dim, cuda.blockDim.x):
            h, d = i // head_dim, i % head_dim
            maximum, total, mix = merged(maxima, sums, mixed, h, parts, heads, head_dim, d)
            piece_mixed[(to + h) * head_dim + d] = mix
            if d == 0:
                piece_maxima[to + h], piece_sums[to + h] = maximum, total

    return split


@starts_early
@cuda.jit(launch_bounds=MERGE_THREADS)
def merge_pieces(piece_maxima, piece_sums, piece_mixed, context_lens, window, piece, pieces, out):
    """Merge the pieces of each context: a block a query head, 4 numbers of D a thread.

    As many groups of D / 4 threads as there are take turns with the pieces. What a group comes to
    is a part once more, and the groups merge like the warps of any block.
    """
    ptx.release_next_kernel()
    ptx.await_previous_kernel()
    maxima = cuda.shared.array(MERGE_THREADS, float32)
    sums = cuda.shared.array(MERGE_THREADS, float32)
    mixed = cuda.shared.array(_MERGE_NUMBERS, float32)
    num_heads, head_dim = out.shape[1], out.shape[2]
    sequence, head = cuda.blockIdx.x // num_heads, cuda.blockIdx.x % num_heads
    begin, end = visible(context_lens, window, sequence)
    quads = head_dim // 4
    groups = MERGE_THREADS // quads
    group, quad = cuda.threadIdx.x // quads, cuda.threadIdx.x % quads
    first = (sequence * pieces + begin // piece + group) * num_heads + head
    last = (sequence * pieces + (end + piece - 1) // piece) * num_heads
    if group < groups:
        maximum, total, mix = MINUS_INFINITY, float32(0), ptx.zeros16(piece_mixed)
        for part in range(first, last, groups * num_heads):
            values = ptx.load16(piece_mixed, part * head_dim + 4 * quad)
            larger = max(maximum, piece_maxima[part])
            base = reference_point(larger)
            factor, weight = ptx.exp2(maximum - base), ptx.exp2(piece_maxima[part] - base)
            total = total * factor + piece_sums[part] * weight
            for i in range(4):
                mix = ptx.with_item(mix, i, mix[i] * factor + values[i] * weight)
            maximum = larger
        ptx.store16(mixed, group * head_dim + 4 * quad, mix)
        if quad == 0:
            maxima[group], sums[group] = maximum, total
    cuda.syncthreads()
    for d in range(cuda.threadIdx.x, head_dim, MERGE_THREADS):
        _, total, result = merged(maxima, sums, mixed, 0, groups, 1, head_dim, d)
        out[sequence, head, d] = ptx.from_float(out, result * inverse_or_one(total))
