"""Each thread moves a run of numbers: right, but neighbours are not side by side."""
# Rejected: step 3, "moves each number once, side by side": neighbouring threads


@cuda.jit
def write_kv(k, v, k_cache, v_cache, slots):
    token = cuda.blockIdx.x
    slot = slots[token]
    if slot >= 0:
        block_size, heads, head_dim = k_cache.shape[1], k.shape[1], k.shape[2]
        block, inner = slot // block_size, slot % block_size
        run = (heads * head_dim + cuda.blockDim.x - 1) // cuda.blockDim.x
        first = cuda.threadIdx.x * run
        for i in range(first, min(first + run, heads * head_dim)):
            g, d = i // head_dim, i % head_dim
            k_cache[block, inner, g, d] = k[token, g, d]
            v_cache[block, inner, g, d] = v[token, g, d]
