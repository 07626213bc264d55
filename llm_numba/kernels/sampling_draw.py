"""The last two kernels of the sampler: candidates, the least logit that is kept, and the draw.

Each warp weighs what its share surely keeps, and collects the tokens in doubt. Then one block a
row finds the least key that is kept, adds the candidates above it to their shares, multiplies the
sum by the random share, and walks: to the share of the row in which the running sum passes it, to
the thread, to the token.
"""

from numba import cuda, float32, int32, int64

from llm_numba.kernels import ptx
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.rows import MAX_WARPS
from llm_numba.kernels.sampling_numbers import (
    LEAST_KEY,
    column_of_ranked,
    has_finite_maximum,
    key_of,
    key_of_ranked,
    part_of,
    ranked,
    uniform_bits,
    units,
    weigher_of,
    weight_of,
)
from llm_numba.kernels.sampling_parts import (
    ITEMS,
    MAX_SHARES,
    ROUNDS,
    SHARE,
    STRIDE,
    THREADS,
    WARPS,
    column_of_item,
    first_of_run,
    holders,
    live_runs,
    row_best,
    share_of_thread,
    sum_before,
    sum_over_warp,
)
from llm_numba.kernels.sampling_refine import (
    ROOM,
    least_kept_key,
    least_of_few,
    weight_of_key,
)
from llm_numba.kernels.sampling_select import (
    CANDIDATES,
    doubts,
    is_doubtful,
    is_drawn,
    is_limited,
)

# Candidates that a block has room for: a sixteenth of its logits.
ROOM_OF_BLOCK = 1024

_WALKED = SHARE // THREADS


@cuda.jit(device=True)
def units_kept(value, weigher, doubt, least):
    """Return a logit's units; 0 unless it is kept: surely, or in doubt with a key from `least`."""
    weight, (sure, maybe, _, _, _) = weight_of(value, weigher), doubt
    if weight < weigher[2] or weight <= maybe:
        return int64(0)
    if weight > sure or (is_doubtful(weight, doubt) and key_of(value) >= least):
        return units(weight)
    return int64(0)


@cuda.jit(device=True)
def weigh_shares(logits, collected, sure, masses, row, count, weigher, doubt, least):
    """Weigh what each share of a row keeps: what it surely does, and candidates."""
    t, shares = cuda.threadIdx.x, sure.shape[1]
    if count <= ROOM:
        for share in range(t, shares, THREADS):
            masses[share] = sure[row, share]
        cuda.syncthreads()
        for i in range(t, count, THREADS):
            rank = collected[row, i]
            key = key_of_ranked(rank)
            if key >= least:
                weight = units(weight_of_key(key, weigher))
                cuda.atomic.add(masses, column_of_ranked(rank) // SHARE, weight)
    else:
        for share in range(t // WARP, shares, WARPS):
            mass, end = int64(0), min((share + 1) * SHARE, logits.shape[1])
            for column in range(share * SHARE + t % WARP, end, WARP):
                mass += units_kept(ptx.to_float(logits[row, column]), weigher, doubt, least)
            mass = sum_over_warp(mass)
            if t % WARP == 0:
                masses[share] = mass
    cuda.syncthreads()


@cuda.jit(device=True)
def find_share(masses, shares, uniform, partial, found):
    """Find the share in which the running sum passes a part of the whole; and what is left there.

    The result is `found`, shared int64 [2].
    """
    t = cuda.threadIdx.x
    each = (shares + THREADS - 1) // THREADS
    mine = int64(0)
    for share in range(t * each, min((t + 1) * each, shares)):
        mine += masses[share]
    before = sum_before(mine, partial)
    if t == THREADS - 1:
        found[0] = part_of(before + mine, uniform)
    cuda.syncthreads()
    left = found[0] - before
    cuda.syncthreads()
    if left >= 0 and left < mine:
        share = t * each
        while left >= masses[share]:
            left -= masses[share]
            share += 1
        found[0], found[1] = share, left
    cuda.syncthreads()


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
    """Make the last two kernels by one way of loading."""
    _, hold_live = holders(load)

    @cuda.jit(device=True)
    def weigh(logits, row, share, live, weigher, doubt, staged, slots):
        """Weigh what a thread surely keeps of a share, and stage what is in doubt."""
        held = cuda.local.array(ITEMS, float32)
        sure, maybe, _, _, _ = doubt
        first, mass = int32(share * SHARE), int64(0)
        for _ in range(ROUNDS):
            if hold_live(logits, row, first, live, held):
                for i in range(ITEMS):
                    weight = weight_of(held[i], weigher)
                    if weight >= weigher[2] and weight > maybe:
                        if weight > sure:
                            mass += units(weight)
                        elif is_doubtful(weight, doubt):
                            slot = cuda.atomic.add(slots, 0, int32(1))
                            if slot < ROOM_OF_BLOCK:
                                column = column_of_item(logits, first, i)
                                staged[slot] = ranked(key_of(held[i]), column)
            first = int32(first + STRIDE)
        return mass

    @cuda.jit
    def row_candidates(
        logits, temperature, top_k, top_p, min_p, best, tops, cuts, counters, sure, collected
    ):  # fmt: skip
        """Weigh shares and collect their candidates.

        A warp without a logit above the bins in doubt does not read its share. In which order
        candidates are collected is left to chance, and nothing that follows depends on it.
        """
        staged = cuda.shared.array(ROOM_OF_BLOCK, int64)
        slots = cuda.shared.array(2, int32)
        row, t, share = cuda.blockIdx.y, cuda.threadIdx.x, share_of_thread()
        rank = row_best(best, row)
        if not is_drawn(rank, temperature[row]):
            return
        weigher = weigher_of(rank, temperature[row], min_p[row])
        doubt = doubts(row, is_limited(top_k[row], top_p[row]), cuts)
        if t == 0:
            slots[0] = 0
        cuda.syncthreads()
        if share < best.shape[1]:
            live = live_runs(logits, tops, row, share, weigher, doubt[1])
            mass = sum_over_warp(weigh(logits, row, share, live, weigher, doubt, staged, slots))
            if t % WARP == 0:
                sure[row, share] = mass
        cuda.syncthreads()
        collect(staged, slots, row, counters, collected)

    @cuda.jit(device=True)
    def walk(logits, row, column, weigher, doubt, least, stop):
        """Add up what is kept of a thread's 8 logits; and say which passes `stop`, or -1."""
        width, total, chosen = ptx.items16(logits), int64(0), -1
        for k in range(_WALKED // width):
            if column + k * width < logits.shape[1]:
                values = load(logits, row, column + k * width)
                for e in range(width):
                    total += units_kept(values[e], weigher, doubt, least)
                    if chosen < 0 and total > stop:
                        chosen = column + k * width + e
        return total, chosen

    @cuda.jit
    def row_draw(
        logits, temperature, top_k, top_p, min_p, seeds, streams, positions,
        best, cuts, counters, sure, collected, out,
    ):  # fmt: skip
        """Draw the token of a row."""
        partial = cuda.shared.array(MAX_WARPS, int64)
        masses = cuda.shared.array(MAX_SHARES, int64)
        found = cuda.shared.array(2, int64)
        row, t = cuda.blockIdx.x, cuda.threadIdx.x
        rank = row_best(best, row)
        if not is_drawn(rank, temperature[row]):
            token = first_of_run(logits, row, rank)
            if t == 0:
                out[row] = token if has_finite_maximum(rank) else -1
            return
        weigher = weigher_of(rank, temperature[row], min_p[row])
        is_cut, least, count = is_limited(top_k[row], top_p[row]), int64(LEAST_KEY), int64(0)
        doubt = doubts(row, is_cut, cuts)
        if is_cut:
            count = int64(counters[row, CANDIDATES])
            if count <= THREADS:
                least = least_of_few(collected, row, count, weigher, cuts[row], top_p[row], partial)
            else:
                least = least_kept_key(
                    logits, collected, row, count, weigher, cuts[row], top_p[row], partial
                )
        weigh_shares(logits, collected, sure, masses, row, count, weigher, doubt, least)
        uniform = uniform_bits(seeds[row], streams[row], positions[row])
        find_share(masses, sure.shape[1], uniform, partial, found)
        column, left = found[0] * SHARE + t * _WALKED, found[1]
        mine, _ = walk(logits, row, column, weigher, doubt, least, left)
        before = sum_before(mine, partial)
        if before <= left and left < before + mine:
            _, chosen = walk(logits, row, column, weigher, doubt, least, left - before)
            out[row] = chosen

    return row_candidates, row_draw
