"""The last kernel of the sampler: candidates, the least logit that is kept, and the draw.

Each block weighs what its part surely keeps and collects the tokens in doubt. The block of a row
that comes last goes on alone: it finds the least key that is kept, adds the candidates above it to
their parts, multiplies the sum by the random share, and walks: to the part in which the running
sum passes it, to the thread, to the token.
"""

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.rows import MAX_WARPS, MINUS_INFINITY
from llm_numba.kernels.sampling_numbers import (
    bin_of,
    column_of_ranked,
    key_of,
    key_of_ranked,
    lowest_kept,
    octaves_per_logit,
    part_of,
    ranked,
    top_of_bin,
    uniform_bits,
    units,
    value_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    MAX_PARTS,
    PART,
    THREADS,
    WARPS,
    column_of_item,
    holder,
    is_last_of_row,
    row_best,
    sum_before,
    sum_over_block,
    sum_over_warp,
)
from llm_numba.kernels.sampling_refine import (
    LEAST_KEY,
    ROOM,
    least_kept_key,
    units_of_key,
)
from llm_numba.kernels.sampling_select import (
    CANDIDATES,
    COLLECTED,
    K_BIN,
    NO_BIN,
    P_BIN,
    P_LAST,
    SURE,
    has_finite_maximum,
    is_drawn,
    is_limited,
)

# Candidates that a block has room for: an eighth of its logits.
ROOM_OF_BLOCK = 512


@cuda.jit(device=True)
def add_candidates(logits, collected, sure, masses, row, count, weigher, least, high):
    """Add up the parts of a row: what they surely keep, and candidates from `least` to `high`."""
    t, parts = cuda.threadIdx.x, sure.shape[1]
    for part in range(t, parts, THREADS):
        masses[part] = sure[row, part]
    cuda.syncthreads()
    if count <= ROOM:
        for i in range(t, count, THREADS):
            rank = collected[row, i]
            key = key_of_ranked(rank)
            if key >= least and key <= high:
                cuda.atomic.add(masses, column_of_ranked(rank) // PART, units_of_key(key, weigher))
    else:
        for part in range(t // WARP, parts, WARPS):
            mass, end = int64(0), min((part + 1) * PART, logits.shape[1])
            for column in range(part * PART + t % WARP, end, WARP):
                key = key_of(ptx.to_float(logits[row, column]))
                if key >= least and key <= high:
                    mass += units_of_key(key, weigher)
            mass = sum_over_warp(mass)
            if t % WARP == 0:
                masses[part] += mass
    cuda.syncthreads()


@cuda.jit(device=True)
def doubts(row, is_cut, cuts):
    """Return what decides about a token: z that are surely kept, z that may be, bins in doubt."""
    if not is_cut:
        return MINUS_INFINITY, MINUS_INFINITY, int64(NO_BIN), int64(NO_BIN), int64(NO_BIN)
    k_bin, p_bin, p_last = cuts[row, K_BIN], cuts[row, P_BIN], cuts[row, P_LAST]
    sure, last = top_of_bin(cuts[row, SURE]), max(k_bin, p_last)
    return sure, top_of_bin(last + 1), k_bin, p_bin, p_last


@cuda.jit(device=True)
def collect(staged, slots, row, counters, collected):
    """Copy a block's candidates to where those of the row are; too many make it all too many."""
    t, count = cuda.threadIdx.x, slots[0]
    if t == 0 and count > 0:
        claimed = count if count <= ROOM_OF_BLOCK else int32(ROOM + 1)
        slots[1] = cuda.atomic.add(counters, (row, CANDIDATES), claimed)
    cuda.syncthreads()
    for i in range(t, min(count, ROOM_OF_BLOCK), THREADS):
        if slots[1] + i < ROOM:
            collected[row, slots[1] + i] = staged[i]


def draws(load):
    """Make the last kernel by one way of loading."""
    hold_part = holder(load)

    @cuda.jit(device=True)
    def walk(logits, row, column, weigher, least, stop):
        """Add up the units of 16 tokens from a column on; and say which passes `stop`, or -1."""
        maximum, scale, lowest = weigher
        width, total, chosen = ptx.items16(logits), int64(0), -1
        for k in range(ITEMS // width):
            if column + k * width < logits.shape[1]:
                values = load(logits, row, column + k * width)
                for e in range(width):
                    z = (values[e] - maximum) * scale
                    if z >= lowest and key_of(values[e]) >= least:
                        total += units(z)
                    if chosen < 0 and total > stop:
                        chosen = column + k * width + e
        return total, chosen

    @cuda.jit(device=True)
    def draw(logits, row, weigher, least, masses, parts, share, partial, out):
        """Find the token at which the running sum of a row passes a share of the whole."""
        total = int64(0)
        for part in range(parts):
            total += masses[part]
        left, part = part_of(total, share), 0
        while left >= masses[part]:
            left -= masses[part]
            part += 1
        column = part * PART + cuda.threadIdx.x * ITEMS
        mine, _ = walk(logits, row, column, weigher, least, left)
        before = sum_before(mine, partial)
        if before <= left and left < before + mine:
            _, chosen = walk(logits, row, column, weigher, least, left - before)
            out[row] = chosen

    @cuda.jit(device=True)
    def weigh(logits, row, part, weigher, doubt, staged, slots, held):
        """Weigh what a thread's share of a part surely keeps, and stage what is in doubt."""
        maximum, scale, lowest = weigher
        sure, maybe, k_bin, p_bin, p_last = doubt
        mass = int64(0)
        hold_part(logits, row, part, held)
        for i in range(ITEMS):
            z = (held[i] - maximum) * scale
            if z >= lowest:
                if z > sure:
                    mass += units(z)
                elif z > maybe:
                    b = bin_of(z)
                    if b == k_bin or (p_bin <= b and b <= p_last):
                        slot = cuda.atomic.add(slots, 0, int32(1))
                        if slot < ROOM_OF_BLOCK:
                            column = column_of_item(logits, part, i)
                            staged[slot] = ranked(key_of(held[i]), column)
        return mass

    @cuda.jit(device=True)
    def examine(
        logits, row, part, rank, temperature, top_k, top_p, min_p,
        tops, cuts, counters, sure, collected,
    ):  # fmt: skip
        """Weigh a part and collect its candidates.

        A warp that holds no logit above the bins in doubt does not read its share. In which order
        candidates are collected is left to chance, and nothing that follows depends on it.
        """
        partial = cuda.shared.array(MAX_WARPS, int64)
        staged = cuda.shared.array(ROOM_OF_BLOCK, int64)
        slots = cuda.shared.array(2, int32)
        held = cuda.local.array(ITEMS, float32)
        t, scale = cuda.threadIdx.x, octaves_per_logit(temperature[row])
        weigher = value_of(key_of_ranked(rank)), scale, lowest_kept(min_p[row])
        doubt = doubts(row, is_limited(top_k[row], top_p[row]), cuts)
        if t == 0:
            slots[0] = 0
        cuda.syncthreads()
        top = (tops[row, part * WARPS + t // WARP] - weigher[0]) * scale
        mass = int64(0)
        if top >= weigher[2] and top > min(doubt[0], doubt[1]):
            mass = weigh(logits, row, part, weigher, doubt, staged, slots, held)
        mass = sum_over_block(mass, partial)
        if t == 0:
            sure[row, part] = mass
        collect(staged, slots, row, counters, collected)

    @cuda.jit(device=True)
    def finish(
        logits, row, rank, temperature, top_k, top_p, min_p, seeds, streams, positions,
        cuts, counters, sure, collected, out,
    ):  # fmt: skip
        """Draw the token of a row."""
        partial = cuda.shared.array(MAX_WARPS, int64)
        masses = cuda.shared.array(MAX_PARTS, int64)
        scale = octaves_per_logit(temperature[row])
        weigher = value_of(key_of_ranked(rank)), scale, lowest_kept(min_p[row])
        least, high, count = int64(LEAST_KEY), int64(LEAST_KEY), counters[row, CANDIDATES]
        if is_limited(top_k[row], top_p[row]):
            least, high = least_kept_key(
                logits, collected, row, count, weigher, cuts[row], top_p[row], partial
            )
        add_candidates(logits, collected, sure, masses, row, count, weigher, least, high)
        share = uniform_bits(seeds[row], streams[row], positions[row])
        draw(logits, row, weigher, least, masses, sure.shape[1], share, partial, out)

    @cuda.jit
    def part_candidates(
        logits, temperature, top_k, top_p, min_p,
        best, tops, cuts, counters, sure, collected,
    ):  # fmt: skip
        parts = best.shape[1]
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        rank = row_best(best, row)
        if is_drawn(rank, temperature[row]):
            examine(
                logits, row, part, rank, temperature, top_k, top_p, min_p,
                tops, cuts, counters, sure, collected,
            )  # fmt: skip

    @cuda.jit
    def row_draw(
        logits, temperature, top_k, top_p, min_p, seeds, streams, positions,
        best, cuts, counters, sure, collected, out,
    ):  # fmt: skip
        row = cuda.blockIdx.x
        rank = row_best(best, row)
        if is_drawn(rank, temperature[row]):
            finish(
                logits, row, rank, temperature, top_k, top_p, min_p, seeds, streams, positions,
                cuts, counters, sure, collected, out,
            )  # fmt: skip
        elif cuda.threadIdx.x == 0:
            out[row] = column_of_ranked(rank) if has_finite_maximum(rank) else -1

    @cuda.jit
    def part_draw(
        logits, temperature, top_k, top_p, min_p, seeds, streams, positions,
        best, tops, cuts, counters, sure, collected, out,
    ):  # fmt: skip
        flag = cuda.shared.array(1, int32)
        parts = best.shape[1]
        row, part = cuda.blockIdx.x // parts, cuda.blockIdx.x % parts
        rank = row_best(best, row)
        if not is_drawn(rank, temperature[row]):
            if part == 0 and cuda.threadIdx.x == 0:
                out[row] = column_of_ranked(rank) if has_finite_maximum(rank) else -1
            return
        examine(
            logits, row, part, rank, temperature, top_k, top_p, min_p,
            tops, cuts, counters, sure, collected,
        )  # fmt: skip
        if is_last_of_row(counters, row, COLLECTED, parts, flag):
            finish(
                logits, row, rank, temperature, top_k, top_p, min_p, seeds, streams, positions,
                cuts, counters, sure, collected, out,
            )  # fmt: skip

    return part_candidates, row_draw, part_draw
