"""Right, and every block walks along all keys, seen or not."""
# Rejected: step 4, "loads a key once, and none that nobody sees": tiles that its rows see
# Raced: step 4


@cuda.jit
def attention(q, k, v, scale, out):
    k_tile = cuda.shared.array((TILE, 33), float32)
    v_tile = cuda.shared.array((TILE, TILE), float32)
    own = cuda.local.array(OWN, float32)
    positions = cuda.local.array(OWN, int32)
    tops = cuda.local.array(OWN, float32)
    totals = cuda.local.array(OWN, float32)
    mixed = cuda.local.array(OWN, float32)
    group, past = q.shape[1] // k.shape[1], k.shape[0] - q.shape[0]

    begin_rows(q, past, group, own, positions, tops, totals, mixed)
    for first in range(0, k.shape[0], TILE):
        fill(k_tile, k, first, cuda.blockIdx.y)
        fill(v_tile, v, first, cuda.blockIdx.y)
        cuda.syncthreads()
        attend_tile(own, positions, first, k_tile, v_tile, q.shape[2], scale, tops, totals, mixed)
        cuda.syncthreads()
    end_rows(totals, mixed, group, out)
