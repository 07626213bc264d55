# A layer of Llama 3 8B, a prompt of 2048 tokens; tiles of 32 queries and 32 keys.
E, H, G, D, T, TILE = 4096, 32, 8, 128, 2048, 32

tiles = T // TILE
walks = H * tiles * (tiles + 1) // 2  # (query tile, key tile) pairs of all heads
attention = walks * 2 * TILE * TILE * 2 * D
once = 2 * T * 2 * G * D * E  # all keys and values, by a matrix product
again = walks * 2 * TILE * 2 * D * E  # a tile of both for each pair

print(f"attention itself:           {attention / 1e9:8.0f} GFLOP")
print(f"keys and values, once:      {once / 1e9:8.0f} GFLOP")
print(f"keys and values, each time: {again / 1e9:8.0f} GFLOP, {again // once} times that")
