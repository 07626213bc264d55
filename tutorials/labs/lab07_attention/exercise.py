"""Lab 7: attention in one kernel, with no score in memory.

The output of a query is a mix of values: softmax(scores) times v, where the score of a key is
scale times the dot product of query and key, or minus infinity if the query does not see it.

q and out are [S, H, D], k and v are [T, G, D], with D at most 32. R = H / G query heads share a KV
head: head h reads KV head h // R. The S queries are the last of T positions, so query s stands at
position T - S + s. It sees the keys at positions up to its own.
"""

import math

from numba import cuda, float32, int32

WARP = 32
FULL_WARP = 0xFFFFFFFF
ROWS = 4  # queries of a block in steps 1 and 2, one a warp
TILE = 32  # queries, or rows, of a block in steps 3 and 4, and keys of a tile
WARPS = 8  # of a block in steps 3 and 4
OWN = TILE // WARPS  # rows of a warp in steps 3 and 4
NOTHING = float32(-math.inf)


@cuda.jit(device=True)
def load_row(source, row, head):
    """Return component `lane` of a row of q; zero for lanes beyond D. Given.

    Parameters
    ----------
    source : float32 [S, H, D]
    row, head : int

    Returns
    -------
    float32
    """
    lane = cuda.threadIdx.x
    return source[row, head, lane] if lane < source.shape[2] else float32(0)


@cuda.jit(device=True)
def score_of_lane(own, k, key, kv_head, position, scale):
    """Return this lane's score: that of the query, which the lanes hold together, and of its key.

    Requirements:

    - The score is scale times the *dot product*: one number, the sum of D products.
    - A key behind the query's position scores minus infinity, and is not loaded.
    - The components of the query come from the other lanes by shuffles, not from memory.

    Parameters
    ----------
    own : float32
        Component `lane` of the query; zero for lanes beyond D.
    k : float32 [T, G, D]
    key : int
        This lane's key. It may lie behind the last.
    kv_head : int
    position : int
        Of the query.
    scale : float32

    Returns
    -------
    float32
    """
    # --- your code: step 1 ---
    raise NotImplementedError("lab 7, step 1")
    # --- end ---


@cuda.jit
def attention_scores(q, k, scale, scores):
    """Write the table of all scores, to look at. Given: it calls your `score_of_lane`.

    Launched with a grid of (S / 4, H) blocks, rounded up, of 32 x 4 threads.

    Parameters
    ----------
    q, k : float32 [S, H, D], [T, G, D]
    scale : float32
    scores : float32 [H, S, T]
    """
    query, head = cuda.blockIdx.x * ROWS + cuda.threadIdx.y, cuda.blockIdx.y
    if query < q.shape[0]:
        own = load_row(q, query, head)
        kv_head, position = head // (q.shape[1] // k.shape[1]), k.shape[0] - q.shape[0] + query
        for first in range(0, k.shape[0], WARP):
            key = first + cuda.threadIdx.x
            score = score_of_lane(own, k, key, kv_head, position, scale)
            if key < k.shape[0]:
                scores[head, query, key] = score


@cuda.jit(device=True)
def absorb(score, top, total, mixed):
    """Take the scores of 32 more keys into what a warp knows of a query: the online rule.

    Requirements:

    - Afterwards everything is as if the larger top had been known from the start.
    - The new top is that of all 32 lanes. No NaN, even where all scores are minus infinity.

    Parameters
    ----------
    score : float32
        Of this lane's key; minus infinity if it is not seen.
    top : float32
        Largest score so far, the same for all lanes; minus infinity at the beginning.
    total : float32
        Sum of ``exp(score - top)`` over the keys that this *lane* has had.
    mixed : float32
        This lane's component of the sum of ``exp(score - top)`` times value over all keys so far.

    Returns
    -------
    top, total, mixed : float32
        With the 32 keys in top and total; mixed only made smaller: the values are still to come.
    power : float32
        ``exp(score - top)`` with the new top: by how much this lane's key counts.
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 7, step 2")
    # --- end ---


@cuda.jit(device=True)
def finish(total, mixed):
    """Return this lane's component of the output.

    Parameters
    ----------
    total, mixed : float32
        As `absorb` left them.

    Returns
    -------
    float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 7, step 2")
    # --- end ---


@cuda.jit
def attention_online(q, k, v, scale, out):
    """Attend. One query of one head belongs to a warp, which walks along the keys 32 at a time.

    Launched with a grid of (S / 4, H) blocks, rounded up, of 32 x 4 threads.

    Requirements:

    - Global memory: q, k and v are read, out is written, each element once. Nothing else.
    - Only keys and values that the query sees are loaded, once for each query.
    - No shared memory, no barrier.

    Parameters
    ----------
    q, out : float32 [S, H, D]
    k, v : float32 [T, G, D]
    scale : float32
    """
    # --- your code: step 2 ---
    raise NotImplementedError("lab 7, step 2")
    # --- end ---


@cuda.jit(device=True)
def fill(tile, source, first, kv_head):
    """Copy 32 keys or values of one KV head into shared memory, with zeros behind the last.

    Requirements:

    - ``tile[r, d]`` becomes ``source[first + r, kv_head, d]``; zero for rows beyond T.
    - The lanes of a warp copy neighbours of one row. Blocks have 32 x 8 threads.

    Parameters
    ----------
    tile : shared float32 [32, 32 or more]
    source : float32 [T, G, D]
    first, kv_head : int
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 7, step 3")
    # --- end ---


@cuda.jit(device=True)
def attend_tile(own, positions, first, k_tile, v_tile, D, scale, tops, totals, mixed):
    """Take a tile of keys and values into what a warp knows of its four rows.

    Requirements:

    - Keys and values come from shared memory only: one read for each number and *four* rows.
    - Each request to shared memory takes one wavefront.

    Parameters
    ----------
    own : local float32 [4]
        Component `lane` of the queries of the warp's four rows.
    positions : local int32 [4]
        Position of each query; -1 for a row that does not exist, which sees nothing.
    first : int
        Position of the tile's first key.
    k_tile, v_tile : shared float32 [32, 32 or more]
    D : int
    scale : float32
    tops, totals, mixed : local float32 [4]
        As in `absorb`, for each row.
    """
    # --- your code: step 3 ---
    raise NotImplementedError("lab 7, step 3")
    # --- end ---


@cuda.jit(device=True)
def place(row, group):
    """Return query and query head of a row of the block's KV head, `blockIdx.y`. Given.

    Heads that share a KV head stand beside each other:

    ::

        row             0      1          ...  group - 1         group   ...
        query           0      0          ...  0                 1       ...
        head - first    0      1          ...  group - 1         0       ...      first = g * group
    """
    return row // group, cuda.blockIdx.y * group + row % group


@cuda.jit(device=True)
def begin_rows(q, past, group, own, positions, tops, totals, mixed):
    """Load the queries of a warp's four rows, and set down that they have seen nothing. Given."""
    for r in range(OWN):
        query, head = place(cuda.blockIdx.x * TILE + cuda.threadIdx.y * OWN + r, group)
        positions[r], own[r] = -1, float32(0)
        if query < q.shape[0]:
            positions[r], own[r] = past + query, load_row(q, query, head)
        tops[r], totals[r], mixed[r] = NOTHING, float32(0), float32(0)


@cuda.jit(device=True)
def end_rows(totals, mixed, group, out):
    """Write the outputs of a warp's four rows. Given: it calls your `finish`."""
    for r in range(OWN):
        query, head = place(cuda.blockIdx.x * TILE + cuda.threadIdx.y * OWN + r, group)
        if query < out.shape[0]:
            result = finish(totals[r], mixed[r])
            if cuda.threadIdx.x < out.shape[2]:
                out[query, head, cuda.threadIdx.x] = result


@cuda.jit
def attention_short(q, k, v, scale, out):
    """Attend to 32 keys at most. Given: it calls your `fill` and `attend_tile`, once.

    Launched with a grid of (S * R / 32, G) blocks, rounded up, of 32 x 8 threads. A block has 32
    rows of one KV head, and each of its 8 warps has four of them; `place` tells which.

    Parameters
    ----------
    q, out : float32 [S, H, D]
    k, v : float32 [T, G, D]
        T is at most 32.
    scale : float32
    """
    k_tile = cuda.shared.array((TILE, 33), float32)
    v_tile = cuda.shared.array((TILE, TILE), float32)
    own = cuda.local.array(OWN, float32)
    positions = cuda.local.array(OWN, int32)
    tops = cuda.local.array(OWN, float32)
    totals = cuda.local.array(OWN, float32)
    mixed = cuda.local.array(OWN, float32)
    group, past = q.shape[1] // k.shape[1], k.shape[0] - q.shape[0]

    begin_rows(q, past, group, own, positions, tops, totals, mixed)
    fill(k_tile, k, 0, cuda.blockIdx.y)
    fill(v_tile, v, 0, cuda.blockIdx.y)
    cuda.syncthreads()
    attend_tile(own, positions, 0, k_tile, v_tile, q.shape[2], scale, tops, totals, mixed)
    end_rows(totals, mixed, group, out)


@cuda.jit
def attention(q, k, v, scale, out):
    """Attend to any number of keys, a tile of 32 at a time. Launched as `attention_short` is.

    Requirements:

    - A block loads each key and value at most once, for all of its 32 rows.
    - It does not load tiles that none of its rows sees.
    - Nobody reads a tile before it is full, and nobody fills it while somebody still reads.
    - At most 5 sectors a request. No bank conflicts.

    Parameters
    ----------
    q, out : float32 [S, H, D]
    k, v : float32 [T, G, D]
    scale : float32
    """
    # --- your code: step 4 ---
    raise NotImplementedError("lab 7, step 4")
    # --- end ---
