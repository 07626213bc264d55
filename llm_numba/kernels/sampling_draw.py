"""The last step of the sampler: from the candidates of a row to its token, one block a row.

First the least key that is kept. "How many candidates lie above this key?" and "how much do they
weigh?" never grow as the key does, so halving an interval of keys finds where the answer falls
below the limit, exactly, in as many rounds as the keys of a bin differ in bits. Then the draw: of
the parts, the one in which the running sum passes the random share; of that part's logits, the
one.
"""

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    NAN_KEY,
    bin_bits,
    bin_of,
    column_of_ranked,
    key_of,
    key_of_ranked,
    lowest_kept,
    octaves_per_logit,
    part_of,
    uniform_bits,
    units,
    value_of,
)
from llm_numba.kernels.sampling_parts import (
    PART,
    max_over_block,
    row_extremes,
    sum_before,
    sum_over_block,
    sum_over_warp,
)
from llm_numba.kernels.sampling_select import (
    K_BIN,
    K_MASS,
    K_REST,
    NO_BIN,
    P_BIN,
    P_LAST,
    P_MASS,
    ROOM,
    TOTAL,
    has_finite_maximum,
    is_drawn,
    mass_to_reach,
)

DRAW_THREADS = 512
MAX_PARTS = 1024

_SCANNED = PART // DRAW_THREADS
_LEAST_KEY = -NAN_KEY - 1


@cuda.jit(device=True)
def count_of_part(found, row, part):
    """Return how many candidates a part has; all its logits where there was no room."""
    return found[row, part] if found[row, part] <= ROOM else PART


@cuda.jit(device=True)
def candidate(logits, found, keys, row, part, index):
    """Return the key of a candidate; of any logit of the part where there was no room."""
    if found[row, part] <= ROOM:
        return keys[row, part, index]
    column = part * PART + index
    return key_of(ptx.to_float(logits[row, column])) if column < logits.shape[1] else _LEAST_KEY


@cuda.jit(device=True)
def keys_of_bins(logits, found, keys, row, weigher, first, last, partial):
    """Return the least and the largest key of the candidates in some bins."""
    lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
    maximum, scale, lowest, bins_an_octave = weigher
    low, high = int64(NAN_KEY), int64(_LEAST_KEY)
    for part in range(warp, found.shape[1], DRAW_THREADS // WARP):
        for i in range(lane, count_of_part(found, row, part), WARP):
            key = candidate(logits, found, keys, row, part, i)
            z = (value_of(key) - maximum) * scale
            if z >= lowest:
                b = bin_of(z, bins_an_octave)
                if first <= b and b <= last:
                    low, high = min(low, int64(key)), max(high, int64(key))
    return -max_over_block(-low, partial), max_over_block(high, partial)


@cuda.jit(device=True)
def part_between(logits, found, keys, row, weigher, part, above, upto, by_count):
    """Add up a warp's part: candidates with above < key <= upto, by count or by units."""
    total = int64(0)
    for i in range(cuda.threadIdx.x & 31, count_of_part(found, row, part), WARP):
        key = candidate(logits, found, keys, row, part, i)
        if above < key and key <= upto:
            total += int64(1) if by_count else units((value_of(key) - weigher[0]) * weigher[1])
    return total


@cuda.jit(device=True)
def row_between(logits, found, keys, row, weigher, above, upto, by_count, partial):
    """Add up a row's candidates as :func:`part_between`, for each thread of the block."""
    total = int64(0)
    for part in range(cuda.threadIdx.x >> 5, found.shape[1], DRAW_THREADS // WARP):
        total += part_between(logits, found, keys, row, weigher, part, above, upto, by_count)
    return sum_over_block(total, partial)


@cuda.jit(device=True)
def least_key(logits, found, keys, row, weigher, low, high, enough, by_count, partial):
    """Find the least key above which there is less than enough, between two keys."""
    upto = high
    while low < high:
        middle = low + (high - low) // 2
        above = row_between(logits, found, keys, row, weigher, middle, upto, by_count, partial)
        if above < enough:
            high = middle
        else:
            low = middle + 1
    return low


@cuda.jit(device=True)
def least_kept_key(logits, found, keys, row, weigher, cut, top_p, partial):
    """Find the least key that top-k, then top-p, let pass in a row; and the largest in doubt."""
    least, high, total = int64(_LEAST_KEY), int64(_LEAST_KEY), cut[TOTAL]
    if cut[K_BIN] != NO_BIN:
        low, high = keys_of_bins(logits, found, keys, row, weigher, cut[K_BIN], cut[K_BIN], partial)
        least = least_key(logits, found, keys, row, weigher, low, high, cut[K_REST], True, partial)
        count = row_between(logits, found, keys, row, weigher, least, high, True, partial)
        mass = row_between(logits, found, keys, row, weigher, least, high, False, partial)
        # Of equals of the k-th token only as many count as make it k.
        tied = units((value_of(int32(least)) - weigher[0]) * weigher[1])
        total = cut[K_MASS] + mass + (cut[K_REST] - count) * tied
    if cut[P_BIN] != NO_BIN:
        low, high = keys_of_bins(
            logits, found, keys, row, weigher, cut[P_BIN], cut[P_LAST], partial
        )
        enough = mass_to_reach(total, top_p) - cut[P_MASS]
        found_p = least_key(logits, found, keys, row, weigher, low, high, enough, False, partial)
        least = max(least, found_p)
    return least, high


def draws(load):
    """Make the last kernel by one way of loading."""

    @cuda.jit(device=True)
    def sum_of_packets(logits, row, column, weigher, least, stop):
        """Add up 16 logits' units from a column on; and say which passes `stop`, or -1."""
        maximum, scale, lowest, _ = weigher
        width, total, chosen = ptx.items16(logits), int64(0), -1
        for k in range(_SCANNED // width):
            if column + k * width < logits.shape[1]:
                values = load(logits, row, column + k * width)
                for e in range(width):
                    z = (values[e] - maximum) * scale
                    if z >= lowest and key_of(values[e]) >= least:
                        total += units(z)
                    if chosen < 0 and total > stop:
                        chosen = column + k * width + e
        return total, chosen

    @cuda.jit
    def row_draw(
        logits, temperature, top_p, min_p, seeds, streams, positions,
        best, smallest, cuts, sure, found, keys, out,
    ):  # fmt: skip
        """Draw the token of a row."""
        partial = cuda.shared.array(MAX_WARPS, int64)
        masses = cuda.shared.array(MAX_PARTS, int64)
        row, t = cuda.blockIdx.x, cuda.threadIdx.x
        rank, bottom = row_extremes(best, smallest, row)
        if not is_drawn(rank, temperature[row]):
            if t == 0:
                out[row] = column_of_ranked(rank) if has_finite_maximum(rank) else -1
            return
        maximum, scale = value_of(key_of_ranked(rank)), octaves_per_logit(temperature[row])
        bins_an_octave = float32(1 << bin_bits((bottom - maximum) * scale))
        weigher = maximum, scale, lowest_kept(min_p[row]), bins_an_octave
        least, high = least_kept_key(
            logits, found, keys, row, weigher, cuts[row], top_p[row], partial
        )
        parts = found.shape[1]
        for part in range(t // WARP, parts, DRAW_THREADS // WARP):
            mass = sum_over_warp(
                part_between(logits, found, keys, row, weigher, part, least - 1, high, False)
            )
            if t % WARP == 0:
                masses[part] = sure[row, part] + mass
        cuda.syncthreads()
        total = int64(0)
        for part in range(parts):
            total += masses[part]
        left = part_of(total, uniform_bits(seeds[row], streams[row], positions[row]))
        part = 0
        while left >= masses[part]:
            left -= masses[part]
            part += 1
        column = part * PART + t * _SCANNED
        mine, _ = sum_of_packets(logits, row, column, weigher, least, left)
        before = sum_before(mine, partial)
        if before <= left and left < before + mine:
            _, chosen = sum_of_packets(logits, row, column, weigher, least, left - before)
            out[row] = chosen

    return row_draw
