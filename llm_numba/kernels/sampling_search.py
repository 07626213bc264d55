"""The first step of the sampler: one block a row, and a search that reads the row each time.

No sort here either. "How many tokens lie above this logit?" falls as the logit rises, so halving
the interval of all keys 32 times finds the k-th largest, ties included; the same question asked of
the weights finds where top-p ends. Each question is a read of the row, by the 256 threads of one
block, while most of the GPU has nothing to do.
"""

from numba import cuda, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    NAN_KEY,
    column_of_ranked,
    has_finite_maximum,
    key_of,
    part_of,
    ranked,
    uniform_bits,
    units,
    value_of,
    weigher_of,
    weight_of,
)
from llm_numba.kernels.sampling_parts import (
    LEAST_RANK,
    max_over_block,
    sum_before,
    sum_over_block,
)
from llm_numba.kernels.sampling_select import is_drawn, mass_to_reach

SEARCH_THREADS = 256
_LEAST_KEY = -NAN_KEY - 1


@cuda.jit(device=True)
def units_of_column(logits, row, column, weigher, above):
    """Return a token's weight; 0 unless its key is above a key and min-p lets it pass."""
    value = ptx.to_float(logits[row, column])
    weight = weight_of(value, weigher)
    return units(weight) if weight >= weigher[2] and key_of(value) > above else int64(0)


@cuda.jit(device=True)
def row_above(logits, row, weigher, above, by_count, partial):
    """Count or weigh the tokens of a row above a key, for each thread of the block."""
    total = int64(0)
    for column in range(cuda.threadIdx.x, logits.shape[1], SEARCH_THREADS):
        weight = units_of_column(logits, row, column, weigher, above)
        total += min(weight, int64(1)) if by_count else weight
    return sum_over_block(total, partial)


@cuda.jit(device=True)
def least_key_of_row(logits, row, weigher, low, enough, by_count, partial):
    """Find the least key, from a key on, above which there is less than enough."""
    high = int64(NAN_KEY)
    while low < high:
        middle = low + (high - low) // 2
        if row_above(logits, row, weigher, middle, by_count, partial) < enough:
            high = middle
        else:
            low = middle + 1
    return low


@cuda.jit
def sample_search(
    logits, temperature, top_k, top_p, min_p, seeds, streams, positions, out
):  # fmt: skip
    """Find the least key kept by two searches, then walk along the row to the random share."""
    partial = cuda.shared.array(MAX_WARPS, int64)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    rank = int64(LEAST_RANK)
    for column in range(t, logits.shape[1], SEARCH_THREADS):
        rank = max(rank, ranked(key_of(ptx.to_float(logits[row, column])), column))
    rank = max_over_block(rank, partial)
    if not is_drawn(rank, temperature[row]):
        if t == 0:
            out[row] = column_of_ranked(rank) if has_finite_maximum(rank) else -1
        return
    weigher = weigher_of(rank, temperature[row], min_p[row])
    least, k = int64(_LEAST_KEY), int64(top_k[row])
    if k > 0:
        least = least_key_of_row(logits, row, weigher, least, k, True, partial)
    total = row_above(logits, row, weigher, least, False, partial)
    if least > _LEAST_KEY:  # of equals of the k-th token only as many count as make it k
        missing = k - row_above(logits, row, weigher, least, True, partial)
        total += missing * units(weight_of(value_of(int32(least)), weigher))
    if top_p[row] < 1:
        enough = mass_to_reach(total, top_p[row])
        least = least_key_of_row(logits, row, weigher, least, enough, False, partial)
    total = row_above(logits, row, weigher, least - 1, False, partial)
    left = part_of(total, uniform_bits(seeds[row], streams[row], positions[row]))
    first = 0
    while left >= 0:
        weight = int64(0)
        if first + t < logits.shape[1]:
            weight = units_of_column(logits, row, first + t, weigher, least - 1)
        before = sum_before(weight, partial)
        if before <= left and left < before + weight:
            out[row] = first + t
        left -= sum_over_block(weight, partial)
        first += SEARCH_THREADS
