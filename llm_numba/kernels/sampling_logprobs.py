r"""Logarithms of probabilities: of all tokens, of one, of the most likely ones.

.. math:: \log p_j = x_j - m - \log \sum_i e^{x_i - m}, \qquad m = \max_i x_i

A row is read once: each share reports its maximum, its sum relative to that, how many logits are
above the row's own token, and the largest logit of each of its runs. A block a row then merges the
shares, in the order of shares: sums of float32 depend on their order, and this one depends on V
alone. The most likely tokens lie in the runs that have the largest logits, and few of those have
to be read again.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64

from llm_numba.kernels import checks, ptx
from llm_numba.kernels.reduce import WARP, warp_sum
from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    LEAST_KEY,
    LOG2_E,
    column_of_ranked,
    key_of,
    key_of_ranked,
    ranked,
    value_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    LEAST_RANK,
    ROUNDS,
    SHARE,
    STRIDE,
    THREADS,
    WARPS,
    column_of_item,
    gather_packet,
    grid_of,
    holders,
    load_packet,
    max_over_block,
    row_best,
    rows_are_packets,
    runs_of,
    runs_of_share,
    share_of_thread,
    share_reader,
    shares_of,
    sum_before,
    sum_over_warp,
)
from llm_numba.kernels.softmax_logits import reference_point
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype

# Tokens that a block has room for.
ROOM = 4096

_NAN = float32(math.nan)
_MOST_RANK = (1 << 63) - 1
_DIGITS = 256  # as many as a block has threads


@cuda.jit(device=True)
def logit_of_token(logits, token_ids, row):
    """Return the logit of the row's own token; NaN if there is no such token."""
    token = token_ids[row]
    if token < 0 or token >= logits.shape[1]:
        return _NAN
    return ptx.to_float(logits[row, token])


@cuda.jit(device=True)
def row_maximum_and_log_sum(best, weights, row):
    """Merge the maxima and sums of a row's shares, for each lane of a warp."""
    maximum, total = value_of(key_of_ranked(row_best(best, row))), float32(0)
    base = reference_point(maximum)
    for share in range(cuda.threadIdx.x & 31, best.shape[1], WARP):
        own_base = reference_point(value_of(key_of_ranked(best[row, share])))
        total += weights[row, share] * ptx.exp2((own_base - base) * LOG2_E)
    return maximum, math.log(warp_sum(total))


def _made(load):
    """Make the kernels that read all logits, by one way of loading."""
    read_share, (hold, _) = share_reader(load), holders(load)

    @cuda.jit
    def share_logprobs(logits, token_ids, best, weights, tops, above):
        """Report what a row needs of a share: maximum, sum, rank, and the largest of each run."""
        row, lane, share = cuda.blockIdx.y, cuda.threadIdx.x & 31, share_of_thread()
        if share >= best.shape[1]:
            return
        own = logit_of_token(logits, token_ids, row) if token_ids.size > 0 else _NAN
        rank, top, weight, count = read_share(logits, row, share, LOG2_E, own)
        weight, count = warp_sum(weight), warp_sum(count)
        if lane == 0:
            best[row, share] = rank
            weights[row, share] = weight
            above[row, share] = count
        runs = runs_of_share(logits)
        if lane < runs:
            tops[row, share * runs + lane] = top

    @cuda.jit
    def share_log_softmax(logits, best, weights, out):
        """Subtract the row's maximum and the logarithm of its sum."""
        held = cuda.local.array(ITEMS, float32)
        row, first = cuda.blockIdx.y, int32(share_of_thread() * SHARE)
        maximum, log_sum = row_maximum_and_log_sum(best, weights, row)
        for _ in range(ROUNDS):
            hold(logits, row, first, held)
            for i in range(ITEMS):
                column = column_of_item(logits, first, i)
                if column < logits.shape[1]:
                    out[row, column] = ptx.from_float(out, held[i] - maximum - log_sum)
            first = int32(first + STRIDE)

    return share_logprobs, share_log_softmax


_PACKETS, _GATHERED = _made(load_packet), _made(gather_packet)


@cuda.jit(device=True)
def key_of_nth(tops, row, n, partial):
    """Find the n-th largest key of a row's runs, eight bits a round; the least if there are fewer.

    Keys are signed. Offset by 2^31 they are not, and digits come in order.
    """
    counts = cuda.shared.array(_DIGITS, int32)
    found = cuda.shared.array(2, int64)
    t, low = cuda.threadIdx.x, int64(0)
    if n > tops.shape[1]:
        return int64(LEAST_KEY)
    for shift in (24, 16, 8, 0):
        counts[t] = 0
        cuda.syncthreads()
        for run in range(t, tops.shape[1], THREADS):
            digit = ((int64(tops[row, run]) - LEAST_KEY) - low) >> shift
            if digit >= 0 and digit < _DIGITS:
                cuda.atomic.add(counts, digit, int32(1))
        cuda.syncthreads()
        mine = int64(counts[_DIGITS - 1 - t])
        before = sum_before(mine, partial)
        if before < n and n <= before + mine:
            found[0], found[1] = _DIGITS - 1 - t, before
        cuda.syncthreads()
        low += found[0] << shift
        n -= found[1]
        cuda.syncthreads()
    return low + LEAST_KEY


@cuda.jit(device=True)
def collect_from(logits, tops, row, least, ranks, size):
    """Collect the tokens of a row with a key from `least` on, as long as there is room."""
    width, runs = ptx.items16(logits), runs_of_share(logits)
    lane = cuda.threadIdx.x & 31
    for run in range(cuda.threadIdx.x >> 5, tops.shape[1], WARPS):
        if tops[row, run] >= least:
            begin = run // runs * SHARE + run % runs * WARP * width + lane * width
            for column in range(begin, min(begin + width, logits.shape[1])):
                key = key_of(ptx.to_float(logits[row, column]))
                if key >= least:
                    slot = cuda.atomic.add(size, 0, int32(1))
                    if slot < ROOM:
                        ranks[slot] = ranked(key, column)


@cuda.jit
def row_logprobs(logits, token_ids, best, weights, tops, above, logprob, rank, ids, logprobs):
    """Merge the shares of a row; find its largest logits, a block a row.

    No token of the n largest lies in a run whose own largest is below that of n runs. So few are
    collected, and each of them counts those above it: that is its place. Where equals are more
    than there is room for, the row is read for each place in turn.
    """
    ranks = cuda.shared.array(ROOM, int64)
    partial = cuda.shared.array(MAX_WARPS, int64)
    size = cuda.shared.array(1, int32)
    row, t, count = cuda.blockIdx.x, cuda.threadIdx.x, ids.shape[1]
    maximum, log_sum = row_maximum_and_log_sum(best, weights, row)
    more_likely = int64(0)
    for share in range(t & 31, above.shape[1], WARP):
        more_likely += above[row, share]
    more_likely = sum_over_warp(more_likely)
    if t == 0:
        logprob[row] = logit_of_token(logits, token_ids, row) - maximum - log_sum
        rank[row] = more_likely + 1
        size[0] = 0
    if count == 0:
        return
    least = key_of_nth(tops, row, int64(count), partial)
    cuda.syncthreads()
    collect_from(logits, tops, row, least, ranks, size)
    cuda.syncthreads()
    if size[0] <= ROOM:
        for i in range(t, size[0], THREADS):
            place = int32(0)
            for j in range(size[0]):
                place += ranks[j] > ranks[i]
            if place < count:
                ids[row, place] = column_of_ranked(ranks[i])
                logprobs[row, place] = value_of(key_of_ranked(ranks[i])) - maximum - log_sum
        return
    last = int64(_MOST_RANK)
    for place in range(count):
        following = int64(LEAST_RANK)
        for column in range(t, logits.shape[1], THREADS):
            other = ranked(key_of(ptx.to_float(logits[row, column])), column)
            following = max(following, other if other < last else following)
        last = max_over_block(following, partial)
        if t == 0:
            ids[row, place] = column_of_ranked(last)
            logprobs[row, place] = value_of(key_of_ranked(last)) - maximum - log_sum


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
    reports = _reports(logits)
    results = (
        empty(rows, np.float32, like=logits),
        empty(rows, np.int64, like=logits),
        empty((rows, count), np.int64, like=logits),
        empty((rows, count), np.float32, like=logits),
    )
    kernel, _ = _kernels(logits)
    launches = (
        Launch(kernel, grid_of(logits), (THREADS,), (logits, token_ids, *reports)),
        Launch(row_logprobs, (rows,), (THREADS,), (logits, token_ids, *reports, *results)),
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
        nobody = empty(0, np.int32, like=x)
        reports = _reports(logits)
        best, weights, _, _ = reports
        first, second = _kernels(logits)
        grid, block = grid_of(logits), (THREADS,)
        launches = (
            Launch(first, grid, block, (logits, nobody, *reports)),
            Launch(second, grid, block, (logits, best, weights, result)),
        )
        launch_all(launches, stream)
    return out


def _kernels(logits: Any) -> tuple[Any, Any]:
    return _PACKETS if rows_are_packets(logits) else _GATHERED


def _reports(logits: Any) -> tuple[Any, Any, Any, Any]:
    rows, shares = len(logits), shares_of(logits.shape[1])
    return (
        empty((rows, shares), np.int64, like=logits),
        empty((rows, shares), np.float32, like=logits),
        empty((rows, runs_of(logits)), np.int32, like=logits),
        empty((rows, shares), np.int32, like=logits),
    )
