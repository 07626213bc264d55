"""Lab 8: a paged KV cache: who owns which block, and kernels that write and read the pages.

The cache of keys, and that of values, is float32 [num_blocks, block_size, G, D]. A block holds
`block_size` tokens. The token at position p of a sequence lives in

    slot = blocks[p // block_size] * block_size + p % block_size

Axis letters: B sequences, N new tokens, H query heads, G KV heads, D numbers a head (32 here).
"""

import math

from numba import cuda, float32

WARP = 32
MINUS_INFINITY = float32(-math.inf)


class OutOfBlocksError(Exception):
    """More blocks are needed than are free."""


class BlockAllocator:
    """Hands out block numbers and counts the owners of each block.

    Parameters
    ----------
    num_blocks : int
        Blocks are numbered from 0 to ``num_blocks - 1``. All are free at first.
    """

    def __init__(self, num_blocks):
        # --- your code: step 1 ---
        self.free_blocks = list(range(num_blocks))
        self.owners = [0] * num_blocks
        # --- end ---

    def num_free(self):
        """Return how many blocks have no owner."""
        # --- your code: step 1 ---
        return len(self.free_blocks)
        # --- end ---

    def num_owners(self, block):
        """Return how many owners a block has; 0 if it is free."""
        # --- your code: step 1 ---
        return self.owners[block]
        # --- end ---

    def allocate(self):
        """Take a free block, which then has one owner, and return its number.

        Raises
        ------
        OutOfBlocksError
            If no block is free.
        """
        # --- your code: step 1 ---
        if not self.free_blocks:
            raise OutOfBlocksError("no block is free")
        block = self.free_blocks.pop()
        self.owners[block] = 1
        return block
        # --- end ---

    def share(self, block):
        """Add an owner to a block that has one.

        Raises
        ------
        ValueError
            If the block is free: its contents are nobody's.
        """
        # --- your code: step 1 ---
        if self.owners[block] == 0:
            raise ValueError(f"block {block} is free and cannot be shared")
        self.owners[block] += 1
        # --- end ---

    def free(self, block):
        """Remove one owner. A block without owners is free again.

        Raises
        ------
        ValueError
            If the block is free already.
        """
        # --- your code: step 1 ---
        if self.owners[block] == 0:
            raise ValueError(f"block {block} is free already")
        self.owners[block] -= 1
        if self.owners[block] == 0:
            self.free_blocks.append(block)
        # --- end ---


class BlockTables:
    """The block tables of all sequences of one cache.

    Parameters
    ----------
    num_blocks : int
    block_size : int
        Tokens a block.

    Attributes
    ----------
    blocks : dict
        By a sequence's name, the list of its blocks in order.
    num_tokens : dict
        By a sequence's name, how many tokens it has.
    """

    def __init__(self, num_blocks, block_size):
        self.allocator = BlockAllocator(num_blocks)
        self.block_size = block_size
        self.blocks = {}
        self.num_tokens = {}

    def start(self, name):
        """Begin a sequence without tokens."""
        self.blocks[name] = []
        self.num_tokens[name] = 0

    def append(self, name, count):
        """Make room for `count` more tokens of a sequence.

        A new token must not be written into a block that has other owners. If the sequence's last
        block has room left and is shared, the sequence first gets a block of its own in its place,
        and lets go of the shared one (copy-on-write).

        Requirements: no block is taken before a token needs it. If there are not enough free
        blocks for all of the tokens, nothing is changed.

        Parameters
        ----------
        name : str
        count : int
            At least 1.

        Returns
        -------
        slots : list of int
            Where the tokens go, in order.
        copies : list of (int, int)
            Blocks to copy before anything is written: (from, to). At most one pair.

        Raises
        ------
        OutOfBlocksError
            If there are not enough free blocks.
        """
        # --- your code: step 2 ---
        blocks, size = self.blocks[name], self.block_size
        first = self.num_tokens[name]
        last = first + count
        must_copy = first % size != 0 and self.allocator.num_owners(blocks[-1]) > 1
        missing = -(-last // size) - len(blocks)
        if missing + must_copy > self.allocator.num_free():
            raise OutOfBlocksError(f"{missing + must_copy} blocks are needed")
        copies = []
        if must_copy:
            copies.append((blocks[-1], self.allocator.allocate()))
            self.allocator.free(blocks[-1])
            blocks[-1] = copies[0][1]
        for _ in range(missing):
            blocks.append(self.allocator.allocate())
        self.num_tokens[name] = last
        return [blocks[p // size] * size + p % size for p in range(first, last)], copies
        # --- end ---

    def fork(self, name, new_name):
        """Begin a sequence with the tokens of another one. They share all blocks."""
        # --- your code: step 2 ---
        for block in self.blocks[name]:
            self.allocator.share(block)
        self.blocks[new_name] = list(self.blocks[name])
        self.num_tokens[new_name] = self.num_tokens[name]
        # --- end ---

    def end(self, name):
        """Forget a sequence and let go of its blocks."""
        # --- your code: step 2 ---
        for block in self.blocks.pop(name):
            self.allocator.free(block)
        del self.num_tokens[name]
        # --- end ---

    def num_free(self):
        """Return how many blocks have no owner."""
        return self.allocator.num_free()


@cuda.jit
def write_kv(k, v, k_cache, v_cache, slots):
    """Store the keys and values of new tokens in their slots.

    Launched with a block of threads for each token: N blocks of 64 threads.

    Requirements: each number of k and v is read once, each number of a slot is written once.
    Neighbouring threads move neighbouring numbers. A token whose slot is negative is padding: it
    is neither read nor written. Any G and any D work, also when G D is no multiple of 64.

    Parameters
    ----------
    k, v : float32 [N, G, D]
    k_cache, v_cache : float32 [num_blocks, block_size, G, D]
    slots : int32 [N]
    """
    # --- your code: step 3 ---
    token = cuda.blockIdx.x
    slot = slots[token]
    if slot >= 0:
        block_size, heads, head_dim = k_cache.shape[1], k.shape[1], k.shape[2]
        block, inner = slot // block_size, slot % block_size
        for i in range(cuda.threadIdx.x, heads * head_dim, cuda.blockDim.x):
            g, d = i // head_dim, i % head_dim
            k_cache[block, inner, g, d] = k[token, g, d]
            v_cache[block, inner, g, d] = v[token, g, d]
    # --- end ---


@cuda.jit(device=True)
def warp_sum(value):
    """Return the sum of a number over the 32 lanes of a warp, to all of them."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)
    return value


@cuda.jit
def paged_decode(q, k_cache, v_cache, block_tables, context_lens, scale, out):
    """Let one new token of each sequence attend to the sequence's keys, where they lie.

        score[t] = scale * (q[b, h] . key of position t, of KV head h // (H / G))
        out[b, h] = sum over t of softmax(score)[t] * value of position t

    Launched with a warp for each query head of each sequence: a grid of (H, B) blocks of 32
    threads. D is 32, so that lane d can own number d of the query and of the result.

    Requirements: one pass over the positions, with the online softmax (lab 6). Each block of
    threads reads each key and each value once, a row of 32 numbers by one request. Scores may be
    large: +-1000 must not overflow. Slots that belong to no position of the sequence may hold NaN
    and are never read. A sequence without tokens gets zeros.

    Parameters
    ----------
    q : float32 [B, H, 32]
    k_cache, v_cache : float32 [num_blocks, block_size, G, 32]
    block_tables : int32 [B, W]
        A sequence's blocks in order. What stands behind them is of no use: -1.
    context_lens : int32 [B]
        How many positions each sequence has.
    scale : float32
    out : float32 [B, H, 32]
    """
    # --- your code: step 4 ---
    head, sequence, lane = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    kv_head = head // (q.shape[1] // k_cache.shape[2])
    block_size = k_cache.shape[1]
    query = q[sequence, head, lane] * scale
    maximum, total, mix = MINUS_INFINITY, float32(0), float32(0)
    for t in range(context_lens[sequence]):
        block, inner = block_tables[sequence, t // block_size], t % block_size
        score = warp_sum(query * k_cache[block, inner, kv_head, lane])
        larger = max(maximum, score)
        factor, weight = math.exp(maximum - larger), math.exp(score - larger)
        total = total * factor + weight
        mix = mix * factor + weight * v_cache[block, inner, kv_head, lane]
        maximum = larger
    out[sequence, head, lane] = mix / total if total > float32(0) else float32(0)
    # --- end ---
