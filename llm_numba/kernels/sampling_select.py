"""Where top-k and top-p cut a row: a histogram, two bins of it, and the tokens in them.

Nothing is sorted. A histogram over the weight's logarithm holds how many tokens each bin has and
how much they weigh together. Added up from the top, it says in which bin the k-th token lies, and
in which the sum reaches p. All bins above are kept, all below are not; only the tokens *in* the bin
(one in some hundred, as a rule) need a closer look, and are collected for it.

::

    bin           0    1    2    3    4    5    6   ...      z = 0 downwards
    weight       .21  .17  .20  .14  .09  .06  .04  ...
    sum before   0    .21  .38  .58  .72  .81  .87  ...      top-p 0.7: cut somewhere in bin 3
                 kept, all of them   ^collected

With both limits the mass that p is a part of is known only once the k-th token is: its bounds are
those of the k-th token's bin, so a few bins may be in doubt, and all of them are collected.
"""

from numba import cuda, float32, int32, int64

from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    BINS,
    INFINITY_KEY,
    UNIFORM_BITS,
    bin_bits,
    bin_of,
    key_of,
    key_of_ranked,
    lowest_kept,
    octaves_per_logit,
    part_of,
    units,
    units_in_bin,
    units_of_bin,
    value_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    THREADS,
    holder,
    row_extremes,
    sum_before,
    sum_over_block,
)

# Below this temperature a token is not drawn: the most likely one is taken.
GREEDY_BELOW = float32(1e-5)

# Keys that a part has room for: a sixteenth of its logits.
ROOM = 512

_ONE = float32(1)


# A row's record, int64: what row_cuts finds, as columns of `cuts`.
SURE = 0  # bins below this one are kept whole; BINS where nothing limits the row
K_BIN = 1  # bin of the k-th token, or NO_BIN
K_REST = 2  # how many tokens of that bin count
K_MASS = 3  # units in the bins above it
P_BIN, P_LAST = 4, 5  # bins that top-p may end in, or NO_BIN
P_MASS = 6  # units in the bins above P_BIN
TOTAL = 7  # units of the row
RECORD = 8
NO_BIN = -1


@cuda.jit(device=True)
def has_finite_maximum(rank):
    """Tell whether a row's largest logit is finite, which NaN is not."""
    key = key_of_ranked(rank)
    return key > -INFINITY_KEY - 1 and key < INFINITY_KEY


@cuda.jit(device=True)
def is_drawn(rank, temperature):
    """Tell whether a row's token is drawn, where it could be the most likely one or none."""
    return temperature >= GREEDY_BELOW and has_finite_maximum(rank)


@cuda.jit(device=True)
def is_limited(top_k, top_p):
    """Tell whether top-k or top-p may drop tokens of a row."""
    return top_k > 0 or top_p < _ONE


def histograms(load):
    """Make the kernel of the second read by one way of loading."""
    hold_part = holder(load)

    @cuda.jit
    def part_histogram(logits, temperature, top_k, top_p, min_p, best, least, counts, masses):
        """Count and weigh the tokens of a part by bins, and add them to the row's histogram.

        Atomic additions of integers: they come in any order, and the sums do not depend on it.
        """
        counted = cuda.shared.array(BINS, int32)
        weighed = cuda.shared.array(BINS, int32)
        held = cuda.local.array(ITEMS, float32)
        parts, t = best.shape[1], cuda.threadIdx.x
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        if not is_limited(top_k[row], top_p[row]):
            return
        rank, smallest = row_extremes(best, least, row)
        if not is_drawn(rank, temperature[row]):
            return
        hold_part(logits, row, part, held)
        for b in range(t, BINS, THREADS):
            counted[b] = 0
            weighed[b] = 0
        maximum, scale = value_of(key_of_ranked(rank)), octaves_per_logit(temperature[row])
        lowest = lowest_kept(min_p[row])
        bits = bin_bits((smallest - maximum) * scale)
        bins_an_octave = float32(1 << bits)
        cuda.syncthreads()
        for i in range(ITEMS):
            z = (held[i] - maximum) * scale
            if z >= lowest:
                b = bin_of(z, bins_an_octave)
                cuda.atomic.add(counted, b, int32(1))
                cuda.atomic.add(weighed, b, units_in_bin(z))
        cuda.syncthreads()
        for b in range(t, BINS, THREADS):
            if counted[b] > 0:
                cuda.atomic.add(counts, (row, b), counted[b])
                cuda.atomic.add(masses, (row, b), units_of_bin(weighed[b], b, bits))

    return part_histogram


@cuda.jit
def row_cuts(temperature, top_k, top_p, best, least, counts, masses, cuts):
    """Find the bins in which a row's limits lie; one thread a bin.

    A limit lies in the bin where the sum before it is short of the limit and the sum with it is
    not. That is true of one bin, so one thread writes.
    """
    partial = cuda.shared.array(MAX_WARPS, int64)
    record = cuda.shared.array(RECORD, int64)
    k_upto = cuda.shared.array(1, int64)
    row, b = cuda.blockIdx.x, cuda.threadIdx.x
    rank, _ = row_extremes(best, least, row)
    if not (is_drawn(rank, temperature[row]) and is_limited(top_k[row], top_p[row])):
        if b < RECORD:
            cuts[row, b] = BINS if b == SURE else NO_BIN
        return
    count, mass = int64(counts[row, b]), masses[row, b]
    count_before, before = sum_before(count, partial), sum_before(mass, partial)
    total = sum_over_block(mass, partial)
    if b < RECORD:
        record[b] = total if b == K_MASS else NO_BIN
    if b == 0:
        k_upto[0] = total
    cuda.syncthreads()
    k = int64(top_k[row])
    if count_before < k and k <= count_before + count:
        record[K_BIN], record[K_REST] = b, k - count_before
        record[K_MASS], k_upto[0] = before, before + mass
    cuda.syncthreads()
    if top_p[row] < _ONE:
        fewest, most = (
            mass_to_reach(record[K_MASS], top_p[row]),
            mass_to_reach(k_upto[0], top_p[row]),
        )
        if before < fewest and fewest <= before + mass:
            record[P_BIN], record[P_MASS] = b, before
        if before < most and most <= before + mass:
            record[P_LAST] = b
    cuda.syncthreads()
    if b == 0:
        record[TOTAL] = total
        first = record[P_BIN] if record[P_BIN] != NO_BIN else record[K_BIN]
        record[SURE] = first if first != NO_BIN else BINS
    cuda.syncthreads()
    if b < RECORD:
        cuts[row, b] = record[b]


@cuda.jit(device=True)
def mass_to_reach(total, top_p):
    """Return the units at which top-p has enough; one at least, which keeps the first token."""
    return max(part_of(total, int64(top_p * float32(1 << UNIFORM_BITS))), int64(1))


@cuda.jit(device=True)
def is_doubtful(b, cut):
    """Tell whether a bin is one that a limit may lie in; `cut` is a row's record."""
    return b == cut[K_BIN] or (cut[P_BIN] <= b and b <= cut[P_LAST])


def candidates(load):
    """Make the kernel of the third read by one way of loading."""
    hold_part = holder(load)

    @cuda.jit
    def part_candidates(logits, temperature, min_p, best, least, cuts, sure, found, keys):
        """Weigh what a part surely keeps, and collect the keys of the bins in doubt.

        In which order they are collected is left to chance; nothing that follows depends on it.
        `found` counts those that there was no room for, too.
        """
        partial = cuda.shared.array(MAX_WARPS, int64)
        slots = cuda.shared.array(1, int32)
        held = cuda.local.array(ITEMS, float32)
        parts, t = best.shape[1], cuda.threadIdx.x
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        rank, smallest = row_extremes(best, least, row)
        if not is_drawn(rank, temperature[row]):
            return
        hold_part(logits, row, part, held)
        if t == 0:
            slots[0] = 0
        maximum, scale = value_of(key_of_ranked(rank)), octaves_per_logit(temperature[row])
        lowest, cut = lowest_kept(min_p[row]), cuts[row]
        bins_an_octave = float32(1 << bin_bits((smallest - maximum) * scale))
        mass = int64(0)
        cuda.syncthreads()
        for i in range(ITEMS):
            z = (held[i] - maximum) * scale
            if z >= lowest:
                b = bin_of(z, bins_an_octave)
                if b < cut[SURE]:
                    mass += units(z)
                elif is_doubtful(b, cut):
                    slot = cuda.atomic.add(slots, 0, int32(1))
                    if slot < ROOM:
                        keys[row, part, slot] = key_of(held[i])
        mass = sum_over_block(mass, partial)
        if t == 0:
            sure[row, part] = mass
            found[row, part] = slots[0]

    return part_candidates
