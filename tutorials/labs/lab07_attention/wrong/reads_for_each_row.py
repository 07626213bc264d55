"""Right, and each of the four rows reads the keys from shared memory for itself."""
# Rejected: step 3, "reads a number once for four rows": requests to shared memory
# Too slow: step 4


@cuda.jit(device=True)
def attend_tile(own, positions, first, k_tile, v_tile, D, scale, tops, totals, mixed):
    lane = cuda.threadIdx.x
    powers = cuda.local.array(OWN, float32)
    for r in range(OWN):
        powers[r] = float32(0)
    for r in range(OWN):
        for d in range(D):
            powers[r] += cuda.shfl_sync(FULL_WARP, own[r], d) * k_tile[lane, d]
    for r in range(OWN):
        score = powers[r] * scale if first + lane <= positions[r] else NOTHING
        tops[r], totals[r], mixed[r], powers[r] = absorb(score, tops[r], totals[r], mixed[r])
    for u in range(TILE):
        component = v_tile[u, lane] if lane < D else float32(0)
        for r in range(OWN):
            mixed[r] += cuda.shfl_sync(FULL_WARP, powers[r], u) * component
