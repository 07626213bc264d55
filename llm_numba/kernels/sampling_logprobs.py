r"""Logarithms of probabilities: of all tokens, of one, of the most likely ones.

.. math:: \log p_j = x_j - m - \log \sum_i e^{x_i - m}, \qquad m = \max_i x_i

A row is read once: each part keeps its logits in registers, finds its maximum and its sum relative
to that, how many logits are above the row's own token, and its `count` largest ones, one after the
other. A block a row then merges the parts, in the order of parts: sums of float32 depend on their
order, and this one depends on V alone.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int64

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.reduce import WARP, warp_max, warp_sum
from llm_numba.kernels.rows import MAX_WARPS, MINUS_INFINITY, sum_over_row
from llm_numba.kernels.sampling_numbers import (
    column_of_ranked,
    key_of,
    key_of_ranked,
    ranked,
    value_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    LEAST_RANK,
    STRIDE,
    THREADS,
    WARPS,
    column_of_item,
    gather_packet,
    holder,
    load_packet,
    max_over_block,
    max_over_warp,
    rows_are_packets,
    sum_over_block,
    sum_over_warp,
)
from llm_numba.kernels.softmax_logits import reference_point
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype

_LOG2_E = float32(math.log2(math.e))
_PART = WARPS * STRIDE  # logits of a block
_NAN = float32(math.nan)
_MOST_RANK = (1 << 63) - 1


@cuda.jit(device=True)
def logit_of_token(logits, token_ids, row):
    """Return the logit of the row's own token; NaN if there is no such token."""
    token = token_ids[row]
    if token < 0 or token >= logits.shape[1]:
        return _NAN
    return ptx.to_float(logits[row, token])


@cuda.jit(device=True)
def row_maximum_and_log_sum(maxima, sums, row):
    """Merge the maxima and sums of a row's parts, for each lane of a warp."""
    lane = cuda.threadIdx.x & 31
    maximum = MINUS_INFINITY
    for part in range(lane, maxima.shape[1], WARP):
        maximum = ptx.maximum(maximum, maxima[row, part])
    maximum = warp_max(maximum)
    base, total = reference_point(maximum), float32(0)
    for part in range(lane, maxima.shape[1], WARP):
        total += sums[row, part] * ptx.exp2((maxima[row, part] - base) * _LOG2_E)
    return maximum, math.log(warp_sum(total))


def _made(load):
    """Make the kernels that read logits, by one way of loading."""
    hold = holder(load)

    @cuda.jit
    def part_logprobs(logits, token_ids, maxima, sums, above, best):
        """Report what a row needs of a part: maximum, sum, rank, and its largest logits in turn.

        The next largest is the largest below the last one; equals are told apart by their columns.
        """
        shared_best = cuda.shared.array(MAX_WARPS, int64)
        shared_sum = cuda.shared.array(MAX_WARPS, float32)
        held = cuda.local.array(ITEMS, float32)
        parts, t = maxima.shape[1], cuda.threadIdx.x
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        first = part * _PART + t // WARP * STRIDE
        hold(logits, row, first, held)
        rank = int64(LEAST_RANK)
        for i in range(ITEMS):
            rank = max(rank, ranked(key_of(held[i]), column_of_item(logits, first, i)))
        rank = max_over_block(rank, shared_best)
        maximum = value_of(key_of_ranked(rank))
        base = reference_point(maximum)
        total = float32(0)
        for i in range(ITEMS):
            total += ptx.exp2((held[i] - base) * _LOG2_E)
        total = sum_over_row(total, shared_sum)
        count = int64(0)
        if token_ids.size > 0:
            own = logit_of_token(logits, token_ids, row)
            for i in range(ITEMS):
                count += held[i] > own
            count = sum_over_block(count, shared_best)
        if t == 0:
            maxima[row, part] = maximum
            sums[row, part] = total
            above[row, part] = count
        for n in range(best.shape[2]):
            if t == 0:
                best[row, part, n] = rank
            following = int64(LEAST_RANK)
            for i in range(ITEMS):
                other = ranked(key_of(held[i]), column_of_item(logits, first, i))
                following = max(following, other if other < rank else following)
            rank = max_over_block(following, shared_best)

    @cuda.jit
    def part_log_softmax(logits, maxima, sums, out):
        """Subtract the row's maximum and the logarithm of its sum."""
        held = cuda.local.array(ITEMS, float32)
        parts = maxima.shape[1]
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        first = part * _PART + cuda.threadIdx.x // WARP * STRIDE
        hold(logits, row, first, held)
        maximum, log_sum = row_maximum_and_log_sum(maxima, sums, row)
        for i in range(ITEMS):
            column = column_of_item(logits, first, i)
            if column < logits.shape[1]:
                out[row, column] = ptx.from_float(out, held[i] - maximum - log_sum)

    return part_logprobs, part_log_softmax


_PACKETS, _GATHERED = _made(load_packet), _made(gather_packet)


@cuda.jit
def row_logprobs(logits, token_ids, maxima, sums, above, best, logprob, rank, ids, logprobs):
    """Merge the parts of a row, one warp a row."""
    row, lane = cuda.blockIdx.x, cuda.threadIdx.x
    parts, count = above.shape[1], best.shape[2]
    maximum, log_sum = row_maximum_and_log_sum(maxima, sums, row)
    more_likely = int64(0)
    for part in range(lane, parts, WARP):
        more_likely += above[row, part]
    more_likely = sum_over_warp(more_likely)
    if lane == 0:
        logprob[row] = logit_of_token(logits, token_ids, row) - maximum - log_sum
        rank[row] = more_likely + 1
    last = int64(_MOST_RANK)
    for n in range(count):
        following = int64(LEAST_RANK)
        for i in range(lane, parts * count, WARP):
            other = best[row, i // count, i % count]
            following = max(following, other if other < last else following)
        last = max_over_warp(following)
        if lane == 0:
            ids[row, n] = column_of_ranked(last)
            logprobs[row, n] = value_of(key_of_ranked(last)) - maximum - log_sum


def top_logprobs(
    logits: Any, token_ids: Any, count: int, *, stream: Any = None
) -> tuple[Any, Any, Any, Any]:
    """Report how likely one token of each row is, and which ones are the most likely.

    Parameters
    ----------
    logits : float32, float16 or bfloat16 [B, V]
        On a device.
    token_ids : int32 or int64 [B]
    count : int
        How many of the most likely ones, at most V.
    stream : optional
        By default the current one.

    Returns
    -------
    logprob : float32 [B]
        Of the row's token: the logarithm of its probability; NaN if there is no such token.
    rank : int64 [B]
        One more than there are more likely tokens.
    ids : int64 [B, count]
        The most likely tokens, the first of equals first. Of no meaning in a row with NaN.
    logprobs : float32 [B, count]
        Theirs.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("logits", logits, ndim=2)
    rows, vocabulary = logits.shape
    checks.array("token_ids", token_ids, dtype=("int32", "int64"), shape=(rows,), like=logits)
    count = checks.integer("count", count, at_most=vocabulary)
    maxima, sums, above, best = _workspaces(logits, count)
    results = (
        empty(rows, np.float32, like=logits),
        empty(rows, np.int64, like=logits),
        empty((rows, count), np.int64, like=logits),
        empty((rows, count), np.float32, like=logits),
    )
    parts = (logits, token_ids, maxima, sums, above, best)
    kernel, _ = _kernels(logits)
    launches = (
        Launch(kernel, (maxima.size,), (THREADS,), parts),
        Launch(row_logprobs, (rows,), (WARP,), (*parts, *results)),
    )
    launch_all(launches, stream)
    return results


def log_softmax(x: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Turn each row into logarithms of probabilities.

    Parameters
    ----------
    x : float32, float16 or bfloat16 [..., V]
        On a device.
    out : as x, optional
        Where the result goes; may be x.
    stream : optional
        By default the current one.

    Returns
    -------
    as x [..., V]
        `out`; computed in float32, rounded once.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    checks.array("x", x, ndim=(1, 2, 3, 4))
    if out is None:
        out = empty_like(x)
    checks.array("out", out, dtype=storage_dtype(x), shape=x.shape, like=x)
    if x.size > 0:
        logits, result = (each.reshape(-1, x.shape[-1]) for each in (x, out))
        maxima, sums, above, best = _workspaces(logits, 0)
        nobody = empty(0, np.int32, like=x)
        first, second = _kernels(logits)
        grid, block = (maxima.size,), (THREADS,)
        launches = (
            Launch(first, grid, block, (logits, nobody, maxima, sums, above, best)),
            Launch(second, grid, block, (logits, maxima, sums, result)),
        )
        launch_all(launches, stream)
    return out


def _kernels(logits: Any) -> tuple[Any, Any]:
    return _PACKETS if rows_are_packets(logits) else _GATHERED


def _workspaces(logits: Any, count: int) -> tuple[Any, Any, Any, Any]:
    shape = len(logits), -(-logits.shape[1] // _PART)
    return (
        empty(shape, np.float32, like=logits),
        empty(shape, np.float32, like=logits),
        empty(shape, np.int64, like=logits),
        empty((*shape, count), np.int64, like=logits),
    )
