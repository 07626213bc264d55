"""Inside a bin: the exact logit at which top-k or top-p cuts, by the same trick at a finer grain.

The candidates of a row are the tokens of the bins in doubt. A histogram of 256 bins over the upper
8 bits in which their keys differ says in which of these the cut lies, the next over the 8 bits
below, until one key is left: a *radix selection*, three rounds as a rule. What is added up is
either tokens, for top-k, or weights, for top-p.
"""

from numba import cuda, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.sampling_numbers import (
    LEAST_KEY,
    NAN_KEY,
    OCTAVE_BITS,
    UNIT_BITS,
    WEIGHT_BITS,
    bin_of,
    key_of,
    key_of_ranked,
    ranked,
    units,
    units_in_bin,
    value_of,
    weight_of,
)
from llm_numba.kernels.sampling_parts import THREADS, max_over_block, sum_before, sum_over_block
from llm_numba.kernels.sampling_select import (
    K_BIN,
    K_MASS,
    K_REST,
    NO_BIN,
    P_BIN,
    P_LAST,
    P_MASS,
    mass_to_reach,
)

# Candidates that a row has room for. With more, its logits themselves are read in their place.
ROOM = 4096

_TOKEN_BITS = 52
_ONE_TOKEN = 1 << _TOKEN_BITS

_DIGIT_BITS = 8
_DIGITS = 1 << _DIGIT_BITS  # as many as a block has threads
# Sums of weights of 16 bits may need more than 31: each half is added up by itself.
_HALF_BITS = 8
_HALF = (1 << _HALF_BITS) - 1


@cuda.jit(device=True)
def candidate(logits, collected, row, index, count):
    """Return a candidate, ranked; where there was no room, whatever the row has there."""
    if count <= ROOM:
        return collected[row, index]
    return ranked(key_of(ptx.to_float(logits[row, index])), index)


@cuda.jit(device=True)
def number_of(logits, count):
    """Return how many candidates there are to look at."""
    return count if count <= ROOM else logits.shape[1]


@cuda.jit(device=True)
def weight_of_key(key, weigher):
    """Return the weight of a key, float32."""
    return weight_of(value_of(key), weigher)


@cuda.jit(device=True)
def keys_of_bins(logits, collected, row, count, weigher, first, last, partial):
    """Return the least and the largest key in some bins."""
    low, high = int32(NAN_KEY), int32(LEAST_KEY)
    for i in range(cuda.threadIdx.x, number_of(logits, count), THREADS):
        key = key_of_ranked(candidate(logits, collected, row, i, count))
        weight = weight_of_key(key, weigher)
        if weight >= weigher[2]:
            b = bin_of(weight)
            if first <= b and b <= last:
                low, high = min(low, key), max(high, key)
    low = int32(-1 - max_over_block(int32(-1 - low), partial))
    return int64(low), int64(max_over_block(high, partial))


@cuda.jit(device=True)
def cut_key(logits, collected, row, count, weigher, low, high, octave, need, partial):
    """Find the key at which tokens, or weights, from the largest down reach what is needed.

    Parameters
    ----------
    low, high : int64
        Keys to look among; where all of them are not enough, the answer is `low`.
    octave : int
        Weights are in units of its bins; -1 to count tokens.
    need : int64

    Returns
    -------
    key : int64
    rest : int64
        What is still needed of the tokens with that key.
    """
    sums = cuda.shared.array((2, _DIGITS), int32)
    found = cuda.shared.array(2, int64)
    t, shift = cuda.threadIdx.x, 0
    while (high - low) >> shift >= _DIGITS:
        shift += _DIGIT_BITS
    while shift >= 0:
        sums[0, t] = 0
        sums[1, t] = 0
        if t == 0:
            found[0] = 0
            found[1] = 0
        cuda.syncthreads()
        for i in range(t, number_of(logits, count), THREADS):
            key = key_of_ranked(candidate(logits, collected, row, i, count))
            if low <= key and key <= high:
                digit = (key - low) >> shift
                weight = int32(1)
                if octave >= 0:
                    whole = weight_of_key(int32(key), weigher)
                    lower = (bin_of(whole) >> OCTAVE_BITS) - octave
                    weight = int32(units_in_bin(whole) >> lower)
                cuda.atomic.add(sums, (0, digit), int32(weight & _HALF))
                cuda.atomic.add(sums, (1, digit), int32(weight >> _HALF_BITS))
        cuda.syncthreads()
        digit = _DIGITS - 1 - t
        total = int64(sums[0, digit]) + (int64(sums[1, digit]) << _HALF_BITS)
        before = sum_before(total, partial)
        if before < need and need <= before + total:
            found[0], found[1] = digit, before
        cuda.syncthreads()
        low += found[0] << shift
        high = min(high, low + (int64(1) << shift) - 1)
        need -= found[1]
        cuda.syncthreads()
        shift -= _DIGIT_BITS
    return low, need


@cuda.jit(device=True)
def least_of_few(collected, row, count, weigher, cut, top_p, partial):
    """Find the least key kept among no more candidates than threads: each looks at all others.

    No rounds and hardly a barrier. How many are above a token and how much they weigh share an
    integer: 256 weights fill 48 bits, and the count stands above them.
    """
    keys = cuda.shared.array(THREADS, int32)
    of_k = cuda.shared.array(THREADS, int64)
    of_p = cuda.shared.array(THREADS, int64)
    k_total = cuda.shared.array(1, int64)
    t = cuda.threadIdx.x
    key, mass, in_k, in_p = int32(LEAST_KEY), int64(0), False, False
    if t < count:
        key = key_of_ranked(collected[row, t])
        weight = weight_of_key(key, weigher)
        mass, b = units(weight), bin_of(weight)
        in_k, in_p = b == cut[K_BIN], b >= cut[P_BIN] and b <= cut[P_LAST]
    keys[t] = key
    of_k[t] = mass + _ONE_TOKEN if in_k else int64(0)
    of_p[t] = mass if in_p else int64(0)
    if t == 0:
        k_total[0] = cut[K_MASS]
    cuda.syncthreads()
    above_k, above_p = int64(0), int64(0)
    for i in range(count):
        if keys[i] > key:
            above_k += of_k[i]
            above_p += of_p[i]
    least, rest = int64(LEAST_KEY), cut[K_REST] - (above_k >> _TOKEN_BITS)
    if cut[K_BIN] != NO_BIN:
        least = smallest_key(key, in_k and rest > 0, partial)
        if in_k and key == least:
            k_total[0] = cut[K_MASS] + (above_k & (_ONE_TOKEN - 1)) + rest * mass
        cuda.syncthreads()
    if cut[P_BIN] != NO_BIN:
        enough = mass_to_reach(k_total[0], top_p) - cut[P_MASS]
        least = max(least, smallest_key(key, in_p and above_p < enough, partial))
    return least


@cuda.jit(device=True)
def smallest_key(key, is_kept, partial):
    """Return the smallest key of the threads that keep theirs, for each thread of a block."""
    return int64(-1 - max_over_block(int32(-1 - key) if is_kept else int32(LEAST_KEY), partial))


@cuda.jit(device=True)
def least_kept_key(logits, collected, row, count, weigher, cut, top_p, partial):
    """Find the least key that top-k, then top-p, let pass among the candidates."""
    least, total = int64(LEAST_KEY), cut[K_MASS]
    if cut[K_BIN] != NO_BIN:
        first = cut[K_BIN]
        low, high = keys_of_bins(logits, collected, row, count, weigher, first, first, partial)
        least, rest = cut_key(
            logits, collected, row, count, weigher, low, high, -1, cut[K_REST], partial
        )
        if cut[P_BIN] != NO_BIN:
            mass = int64(0)
            for i in range(cuda.threadIdx.x, number_of(logits, count), THREADS):
                key = key_of_ranked(candidate(logits, collected, row, i, count))
                if key > least and key <= high:
                    mass += units(weight_of_key(key, weigher))
            # Of equals of the k-th token only as many count as make it k.
            total += sum_over_block(mass, partial) + rest * units(
                weight_of_key(int32(least), weigher)
            )
    if cut[P_BIN] != NO_BIN:
        first = cut[P_BIN]
        low, high = keys_of_bins(
            logits, collected, row, count, weigher, first, cut[P_LAST], partial
        )
        octave = first >> OCTAVE_BITS
        need = (mass_to_reach(total, top_p) - cut[P_MASS]) << octave
        need = max(need >> (UNIT_BITS - WEIGHT_BITS), int64(1))
        reached, _ = cut_key(
            logits, collected, row, count, weigher, low, high, octave, need, partial
        )
        least = max(least, reached)
    return least
