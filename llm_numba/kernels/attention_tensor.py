r"""Fused attention on tensor cores: two products, with a softmax in registers between them.

The rows of a tile are pairs of a query and a head, as in
:mod:`~llm_numba.kernels.attention_register_tile`, and keys come in the same tiles of positions. But
four warps divide the rows among them, and a warp has all keys of its rows: no score has to pass
from one warp to another, not even through shared memory.

::

    shared memory            16-bit numbers, as they came        a warp's registers, a lane's share
    q_tile [128, D]          once                                scores  [32, 64] float32    64
    k_tile [64, D]           brought while values are mixed      outputs [32, D]  float32     D
    v_tile [64, D]           brought while keys are scored       rows' maxima and sums        8

*Why 32 rows a warp.* Fragments of 16 keys come out of shared memory together, in four passes over
its banks. They serve two products if a warp has 16 rows, and four if it has 32. Four tensor cores
multiply four times in six or seven cycles::

    cycles for 128 rows, 64 keys, D = 128       16 rows a warp     32 rows a warp
    products on four tensor cores               1,600              1,600
    fragments out of shared memory              2,304              1,280
    powers of two, 16 a cycle                     512                512

With 16 rows, shared memory is what everybody waits for. With 32, a lane has no register left; but
two blocks share an SM, and one does its softmax while the other multiplies.

*Rounding.* Tensor cores take powers as numbers of 16 bits. The largest of a row is 1 and exact; the
others are off by half a unit in the last place, as the values are that they multiply. The sum that
the outputs are divided by is of the powers before they are rounded.

*The same bits.* What a row adds up, and in which order, depends on its position alone, as in the
step before: tiles of keys begin at multiples of their length, and a product of zeros adds nothing.

Sources: Dao, "FlashAttention-2", 2023 (one warp has all keys of its rows; nothing is divided before
the end); NVIDIA, "PTX ISA", ``mma``, ``ldmatrix``.
"""

import functools
from typing import Any

from numba import cuda, float32, int32, uint32

from llm_numba.kernels import ptx
from llm_numba.kernels.attention_places import placing
from llm_numba.kernels.attention_register_tile import Config
from llm_numba.kernels.attention_staging import THREADS, name_keys, name_queries
from llm_numba.kernels.attention_tensor_pieces import (
    FRAGMENT,
    LAST_LANE,
    Shape,
    aim_keys,
    aim_rows,
    bringing,
    clear,
    hiding,
    mixing,
    scale_all,
    scoring,
    softmaxing,
    storing,
)
from llm_numba.kernels.gemm_pieces import STORED
from llm_numba.kernels.gemm_tensorcore_plans import DTYPES, TENSOR_CORES
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.runtime import has_capability, storage_dtype


def obstacle(q: Any, *others: Any) -> str | None:
    """Say why tensor cores cannot attend to these operands; None if they can.

    Parameters
    ----------
    q : array [N, H, D]
    *others : array
        Keys, values and outputs, of its dtype.

    Returns
    -------
    str or None
        A sentence for the reader of a log.
    """
    if storage_dtype(q) not in DTYPES:
        return f"Tensor cores multiply {' and '.join(DTYPES)} here, not {storage_dtype(q)}."
    if q.shape[-1] % FRAGMENT:
        return f"Heads of {q.shape[-1]} numbers are no multiple of {FRAGMENT}."
    if not all(map(ptx.is_aligned16, (q, *others))):
        return "An operand does not begin at a multiple of 16 bytes."
    if not has_capability(q, TENSOR_CORES):
        return "The GPU is older than compute capability 8.0."
    return None


def tensor_config(head_dim: int) -> Config:
    """Return the tiles for a head dim: 32 rows a warp where their outputs leave registers."""
    return Config(128, 64, 2) if head_dim <= 128 else Config(64, 32, 2)


def tensor_bytes(head_dim: int, config: Config) -> int:
    """Return the dynamic shared memory of a block: queries, keys and values."""
    return 2 * Shape(head_dim, *config[:2]).pitch * (config.rows + 2 * config.keys)


@functools.cache
def tensor_kernel(storage: str, head_dim: int, config: Config, paged: bool) -> Any:
    """Make the kernel for a storage format, a head dim and tiles.

    Parameters
    ----------
    storage : {"float16", "bfloat16"}
    head_dim : int
        D, a multiple of 16.
    config : Config
        Of rows, 16 or 32 for each of four warps.
    paged : bool
        Whether there is a batch of sequences whose keys lie in blocks; else one, contiguous.

    Returns
    -------
    dispatcher
    """
    ROWS, KEYS, BLOCKS = config
    shape = Shape(head_dim, ROWS, KEYS)
    FORM, PITCH, DOWN = STORED[storage], shape.pitch, shape.fragments
    LANE_ROWS = 2 * DOWN
    K_TILE, V_TILE = ROWS * PITCH, (ROWS + KEYS) * PITCH
    SCORES, OUTPUTS = DOWN * shape.score_columns, DOWN * shape.output_columns
    share_of, slot_of = placing(ROWS, paged)
    bring_queries, bring_keys = bringing(shape, ROWS), bringing(shape, KEYS)
    score, hide, softmax, mix = scoring(shape), hiding(shape), softmaxing(shape), mixing(shape)
    store = storing(shape)

    @cuda.jit(launch_bounds=(THREADS, BLOCKS))
    def attention_tensor(
        q, k_cache, v_cache, block_tables, query_starts, context_lens, kv_heads, group, block_size,
        scale, window, out,
    ):  # fmt: skip
        """Walk over the keys that a tile of queries sees.

        All matrices are seen as rows of D: row (n G + g) R + r of q, slot * G + g of the caches.
        """
        tile = cuda.shared.array(0, FORM)
        queries = cuda.shared.array(ROWS, int32)
        positions = cuda.shared.array(ROWS, int32)
        slots = cuda.shared.array((2, KEYS), int32)
        tops, sums = cuda.local.array(LANE_ROWS, float32), cuda.local.array(LANE_ROWS, float32)
        scores = cuda.local.array((SCORES, 4), float32)
        total = cuda.local.array((OUTPUTS, 4), float32)
        part = cuda.local.array((DOWN, 4), uint32)
        head, sequence, start, past, first, last, oldest, newest, lowest = share_of(
            query_starts, context_lens, kv_heads, group, window,
            q.shape[0] // (kv_heads * group), k_cache.shape[0] // kv_heads,
        )  # fmt: skip
        if last < first:
            return
        row, lane = cuda.threadIdx.x // WARP * DOWN * FRAGMENT, cuda.threadIdx.x & LAST_LANE
        q_at, k_at = row * PITCH + aim_rows(PITCH), K_TILE + aim_keys(PITCH)
        v_at = V_TILE + aim_rows(PITCH)

        name_queries(queries, positions, ROWS, start, past, first, last, kv_heads, head, group)
        first_key, turn = lowest // KEYS * KEYS, 0
        where = (block_tables, sequence, block_size, kv_heads, head)
        name_keys(slots[turn], KEYS, first_key, lowest, newest, slot_of, where)
        cuda.syncthreads()
        bring_queries(tile, 0, q, queries)
        bring_keys(tile, K_TILE, k_cache, slots[turn])
        for r in range(LANE_ROWS):
            tops[r], sums[r] = MINUS_INFINITY, float32(0)
        clear(total)
        while first_key <= newest:
            ptx.cp_async_wait(0)
            cuda.syncthreads()  # the keys are there, and everybody has done with the values before
            bring_keys(tile, V_TILE, v_cache, slots[turn])
            name_keys(slots[1 - turn], KEYS, first_key + KEYS, lowest, newest, slot_of, where)
            clear(scores)
            score(0, (tile, q_at, k_at, part, scores))
            scale_all(scores, scale)
            if first_key + KEYS - 1 > oldest or first_key <= newest - window:
                key = first_key + lane % 4 * 2
                hide(0, (scores, positions, row + lane // 4, key, window))
            softmax(0, (scores, tops, sums, total))
            ptx.cp_async_wait(0)
            cuda.syncthreads()  # the values are there, and everybody has done with the keys
            first_key, turn = first_key + KEYS, 1 - turn
            bring_keys(tile, K_TILE, k_cache, slots[turn])
            mix(0, (tile, v_at, part, scores, total))
        ptx.cp_async_wait(0)
        cuda.syncthreads()  # without a key to see, the queries may still be on their way
        store(tile, row, total, sums, out, queries)

    return attention_tensor
