"""Where top-k and top-p cut a row: a histogram, and the bins of it in which the cuts lie.

Nothing is sorted. A histogram over the weights holds how many tokens each bin has and
how much they weigh together. Added up from the top, it says in which bin the k-th token lies, and
in which the sum reaches p. All bins above are kept, all below are not; only the tokens *in* the bin
(one in some hundred, as a rule) need a closer look, and are collected for it.

::

    bin           0    1    2    3    4    5    6   ...      weights downwards
    weight       .21  .17  .20  .14  .09  .06  .04  ...
    sum before   0    .21  .38  .58  .72  .81  .87  ...      top-p 0.7: cut somewhere in bin 3
                 kept, all of them   ^in doubt

With both limits the mass that p is a part of is known only once the k-th token is: its bounds are
those of the k-th token's bin, so a few bins may be in doubt.
"""

from numba import cuda, float32, int32, int64

from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    BINS,
    GREEDY_BELOW,
    UNIFORM_BITS,
    above_bin,
    bin_of,
    has_finite_maximum,
    part_of,
    units,
    units_in_bin,
    units_of_bin,
    value_of,
    weigher_of,
    weight_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    ROUNDS,
    SHARE,
    STRIDE,
    THREADS,
    holders,
    is_last_of_row,
    live_runs,
    row_best,
    share_of_thread,
    sum_before,
    sum_over_block,
    sum_over_warp,
)

# A row's counters, int32: blocks that have added to its histogram, and its candidates.
CANDIDATES = 1
COUNTERS = 2

# A row's cuts, int64.
SURE = 0  # bins below this one are kept whole
K_BIN = 1  # bin of the k-th token, or NO_BIN
K_REST = 2  # how many tokens of that bin count
K_MASS = 3  # units in the bins above it; of the whole row without top-k
P_BIN, P_LAST = 4, 5  # bins that top-p may end in, or NO_BIN
P_MASS = 6  # units in the bins above P_BIN
CUTS = 7
NO_BIN = -1

_BINS_A_THREAD = BINS // THREADS
_ONE = float32(1)
# With fewer runs for each token of top-k, the bound is far off.
_RUNS_A_TOKEN = 4


@cuda.jit(device=True)
def is_drawn(rank, temperature):
    """Tell whether a row's token is drawn, where it could be the most likely one or none."""
    return temperature >= GREEDY_BELOW and has_finite_maximum(rank)


@cuda.jit(device=True)
def is_limited(top_k, top_p):
    """Tell whether top-k or top-p may drop tokens of a row."""
    return top_k > 0 or top_p < _ONE


@cuda.jit(device=True)
def mass_to_reach(total, top_p):
    """Return the units at which top-p has enough; one at least, which keeps the first token."""
    return max(part_of(total, int64(top_p * float32(1 << UNIFORM_BITS))), int64(1))


@cuda.jit(device=True)
def find_cuts(row, k, top_p, counts, masses, cuts):
    """Find the bins in which a row's limits lie, by one block, three bins a thread.

    A limit lies in the bin where the sum before it is short of the limit and the sum with it is
    not. That is true of one bin, so one thread writes.
    """
    partial = cuda.shared.array(MAX_WARPS, int64)
    cut = cuda.shared.array(CUTS, int64)
    k_upto = cuda.shared.array(1, int64)
    t = cuda.threadIdx.x
    first, count, mass = t * _BINS_A_THREAD, int64(0), int64(0)
    for b in range(first, first + _BINS_A_THREAD):
        count += counts[row, b]
        mass += masses[row, b]
    count_before, mass_before = sum_before(count, partial), sum_before(mass, partial)
    total = sum_over_block(mass, partial)
    if t < CUTS:
        cut[t] = total if t == K_MASS else NO_BIN
    if t == 0:
        k_upto[0] = total
    cuda.syncthreads()
    if count_before < k and k <= count_before + count:
        before, upto = mass_before, count_before
        for b in range(first, first + _BINS_A_THREAD):
            if upto < k and k <= upto + counts[row, b]:
                cut[K_BIN], cut[K_REST], cut[K_MASS] = b, k - upto, before
                k_upto[0] = before + masses[row, b]
            before, upto = before + masses[row, b], upto + counts[row, b]
    cuda.syncthreads()
    if top_p < _ONE:
        fewest, most = mass_to_reach(cut[K_MASS], top_p), mass_to_reach(k_upto[0], top_p)
        before = mass_before
        for b in range(first, first + _BINS_A_THREAD):
            upto = before + masses[row, b]
            if before < fewest and fewest <= upto:
                cut[P_BIN], cut[P_MASS] = b, before
            if before < most and most <= upto:
                cut[P_LAST] = b
            before = upto
    cuda.syncthreads()
    if t == 0:
        sure = cut[P_BIN] if cut[P_BIN] != NO_BIN else cut[K_BIN]
        cuts[row, SURE] = sure if sure != NO_BIN else BINS
    elif t < CUTS:
        cuts[row, t] = cut[t]


@cuda.jit(device=True)
def doubts(row, is_cut, cuts):
    """Return what decides about a weight: above which it is surely kept, above which it may be.

    And the bins in doubt: that of the k-th token, and the first and last that top-p may end in.
    """
    if not is_cut:
        return float32(0), float32(0), int64(NO_BIN), int64(NO_BIN), int64(NO_BIN - 1)
    k_bin, p_bin, p_last = cuts[row, K_BIN], cuts[row, P_BIN], cuts[row, P_LAST]
    last = max(k_bin, p_last)
    sure = above_bin(cuts[row, SURE])
    return sure, above_bin(last + 1) if last != NO_BIN else sure, k_bin, p_bin, p_last


@cuda.jit(device=True)
def is_doubtful(weight, doubt):
    """Tell whether a weight lies in a bin that a limit may lie in, where it is not surely kept."""
    _, _, k_bin, p_bin, p_last = doubt
    b = bin_of(weight)
    return b == k_bin or (p_bin <= b and b <= p_last)


@cuda.jit(device=True)
def within_reach(tops, row, k, top_p, vocabulary, weigher, counted, partial):
    """Return a weight at or below which no token is kept: it saves them the histogram.

    The largest logits of runs are tokens, too: where k of them are as heavy, the k-th of all is no
    lighter. Their bins are counted. Without top-k, V tokens, each lighter than (1 - p) / V of the
    first one, are together lighter than the 1 - p of the whole that top-p leaves out.
    """
    found = cuda.shared.array(1, float32)
    t, first = cuda.threadIdx.x, cuda.threadIdx.x * _BINS_A_THREAD
    if k <= 0:
        return (_ONE - top_p) / (float32(2) * float32(vocabulary))
    if k > tops.shape[1] // _RUNS_A_TOKEN:
        return float32(0)
    if t == 0:
        found[0] = float32(0)
    for run in range(t, tops.shape[1], THREADS):
        weight = weight_of(value_of(tops[row, run]), weigher)
        if weight >= weigher[2]:
            cuda.atomic.add(counted, bin_of(weight), int32(1))
    cuda.syncthreads()
    total = int64(0)
    for b in range(first, first + _BINS_A_THREAD):
        total += counted[b]
    upto = sum_before(total, partial)
    if upto < k and k <= upto + total:
        for b in range(first, first + _BINS_A_THREAD):
            before = upto
            upto += counted[b]
            if before < k and k <= upto:
                found[0] = above_bin(b + 1)
    cuda.syncthreads()
    for b in range(first, first + _BINS_A_THREAD):
        counted[b] = 0
    cuda.syncthreads()
    return found[0]


def histograms(load):
    """Make the kernel of the second read by one way of loading."""
    _, hold_live = holders(load)

    @cuda.jit(device=True)
    def add_share(logits, row, share, live, weigher, reach, limits, counted, weighed):
        """Add a share to the histogram of its block; return the units of what is out of reach.

        With top-k nobody asks for these, and runs that are out of reach are not read.
        """
        held = cuda.local.array(ITEMS, float32)
        first, rest = int32(share * SHARE), int64(0)
        needs_count, needs_mass = limits[0] > 0, limits[1] < _ONE
        lowest = _ONE if needs_count else weigher[2]
        for _ in range(ROUNDS):
            if hold_live(logits, row, first, live, held):
                for i in range(ITEMS):
                    weight = weight_of(held[i], weigher)
                    if weight > reach and weight >= weigher[2]:
                        b = bin_of(weight)
                        if needs_count:
                            cuda.atomic.add(counted, b, int32(1))
                        if needs_mass:
                            cuda.atomic.add(weighed, b, units_in_bin(weight))
                    elif weight >= lowest:
                        rest += units(weight)
            first = int32(first + STRIDE)
        return rest

    @cuda.jit
    def row_histogram(
        logits, temperature, top_k, top_p, min_p, best, tops, counts, masses, counters, cuts
    ):  # fmt: skip
        """Count and weigh the tokens of a block's shares by bins; add them to those of the row.

        Atomic additions of integers: they come in any order, and the sums do not depend on it.
        The block that comes last finds the cuts.
        """
        counted = cuda.shared.array(BINS, int32)
        weighed = cuda.shared.array(BINS, int32)
        partial = cuda.shared.array(MAX_WARPS, int64)
        flag = cuda.shared.array(1, int32)
        row, t, share = cuda.blockIdx.y, cuda.threadIdx.x, share_of_thread()
        k, p = top_k[row], top_p[row]
        if not is_limited(k, p):
            return
        rank = row_best(best, row)
        if not is_drawn(rank, temperature[row]):
            return
        for b in range(t, BINS, THREADS):
            counted[b] = 0
            weighed[b] = 0
        weigher = weigher_of(rank, temperature[row], min_p[row])
        cuda.syncthreads()
        reach = within_reach(tops, row, k, p, logits.shape[1], weigher, counted, partial)
        if share < best.shape[1]:
            above = reach if k > 0 else float32(0)
            live = live_runs(logits, tops, row, share, weigher, above)
            rest = add_share(logits, row, share, live, weigher, reach, (k, p), counted, weighed)
            rest = sum_over_warp(rest)
            if t & 31 == 0 and rest > 0:
                cuda.atomic.add(masses, (row, BINS - 1), rest)  # behind all bins that are used
        cuda.syncthreads()
        for b in range(t, BINS, THREADS):
            if counted[b] > 0:
                cuda.atomic.add(counts, (row, b), counted[b])
            if weighed[b] > 0:
                cuda.atomic.add(masses, (row, b), units_of_bin(weighed[b], b))
        if is_last_of_row(counters, row, flag):
            find_cuts(row, int64(k), p, counts, masses, cuts)

    return row_histogram
