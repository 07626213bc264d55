r"""An experiment: the products X Wq, X Wk, X Wv inside the attention kernel, and what they cost.

.. math:: O = \mathrm{softmax}\left(\frac{X W_Q^T (X W_K^T)^T}{\sqrt D} + \text{mask}\right) X W_V^T

x is [T, E], wq is [H D, E], wk and wv are [G D, E] as checkpoints store them; the result is
[T, H, D]. Sketches of fused attention draw it so: why store q, k and v, if one kernel can make them
from X as it needs them? No engine does it, and this file measures why. It is not among the
operations that models use.

A block owns 32 queries of a head and walks over the keys that they see, 32 at a time. It must make
each tile of keys and values anew, and so must all blocks of later queries, and of all heads that
share the KV head: T R / 32 times in all, twice that at the end and never at the beginning.

::

    FLOPs for 32 queries and 32 keys
    keys and values from X    2 x 32 x 2 D x E      128 E D
    scores, and the mix       2 x 32 x 32 x 2 D    4096 D         E / 32 times less

With E = 4096 that is 128 times what attention itself takes. A matrix product of its own makes each
key once. Nor are bytes saved: a row of X is E numbers, where the key and the value that are made of
it are 2 D. And what is not stored cannot be read when the next token comes: there is no KV cache,
and each new token costs as much as its whole prompt.

The other step, ``separate``, is the same arithmetic in the same style (the padded steps of the
ladders of GEMM and attention), each product once.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32

from llm_numba import reference
from llm_numba.kernels import gemm, ptx
from llm_numba.kernels.attention import LADDER as ATTENTION
from llm_numba.kernels.attention_naive import COLUMNS
from llm_numba.kernels.attention_paged import kernel_scale
from llm_numba.kernels.attention_places import divided
from llm_numba.kernels.attention_tile import (
    ROWS_A_WARP,
    TILE,
    WARPS,
    attention_tile,
    merge,
    mix,
    score_keys,
)
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.reduce import WARP, warp_sum
from llm_numba.kernels.rows import MINUS_INFINITY
from llm_numba.kernels.softmax_logits import inverse_or_one
from llm_numba.runtime import Launch, empty

SLAB = WARP  # numbers along E that are in shared memory at once
PITCH = SLAB + 1


@cuda.jit(device=True)
def clear(part):
    """Set a thread's sums to zero."""
    for r in range(ROWS_A_WARP):
        for c in range(COLUMNS):
            part[r, c] = float32(0)


@cuda.jit(device=True)
def project(x, first, weight, head, D, tile, at, pitch, slabs, part):
    """Multiply 32 rows of x by a head's rows of a weight, into a tile of 32 rows of D.

    As in the padded step of the GEMM ladder: slabs of both come into shared memory, lanes along E.
    """
    lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
    x_slab, w_slab = slabs, slabs + TILE * PITCH
    rows = cuda.local.array(ROWS_A_WARP, float32)
    clear(part)
    for e in range(lane, x.shape[1] + lane, SLAB):
        for r in range(warp, TILE, WARPS):
            inside = first + r < x.shape[0] and e < x.shape[1]
            value = ptx.to_float(x[first + r, e]) if inside else float32(0)
            tile[x_slab + r * PITCH + lane] = value
        for d in range(warp, D, WARPS):
            inside = e < x.shape[1]
            value = ptx.to_float(weight[head * D + d, e]) if inside else float32(0)
            tile[w_slab + d * PITCH + lane] = value
        cuda.syncthreads()
        for s in range(SLAB):
            for r in range(ROWS_A_WARP):
                rows[r] = tile[x_slab + (warp * ROWS_A_WARP + r) * PITCH + s]
            for c in range(COLUMNS):
                if lane + c * WARP < D:
                    number = tile[w_slab + (lane + c * WARP) * PITCH + s]
                    for r in range(ROWS_A_WARP):
                        part[r, c] += rows[r] * number
        cuda.syncthreads()
    for r in range(ROWS_A_WARP):
        for c in range(COLUMNS):
            if lane + c * WARP < D:
                tile[at + (warp * ROWS_A_WARP + r) * pitch + lane + c * WARP] = part[r, c]


@cuda.jit
def attention_sketch(x, wq, wk, wv, group, scale, pitch, out):
    """Attend from 32 rows of x to all rows before them, and make queries, keys and values here."""
    tile = cuda.shared.array(0, float32)
    mixed = cuda.local.array((ROWS_A_WARP, COLUMNS), float32)
    part = cuda.local.array((ROWS_A_WARP, COLUMNS), float32)
    tops = cuda.local.array(ROWS_A_WARP, float32)
    sums = cuda.local.array(ROWS_A_WARP, float32)
    powers = cuda.local.array(ROWS_A_WARP, float32)
    lane, head, D = cuda.threadIdx.x, cuda.blockIdx.y, out.shape[2]
    first, row = cuda.blockIdx.x * TILE, cuda.threadIdx.y * ROWS_A_WARP
    kv_head = divided(head, group)[0]
    k_tile, v_tile, slabs = TILE * pitch, 2 * TILE * pitch, 3 * TILE * pitch

    clear(mixed)
    for r in range(ROWS_A_WARP):
        tops[r], sums[r] = MINUS_INFINITY, float32(0)
    project(x, first, wq, head, D, tile, 0, pitch, slabs, part)
    for first_key in range(0, first + 1, TILE):
        project(x, first_key, wk, kv_head, D, tile, k_tile, pitch, slabs, part)
        project(x, first_key, wv, kv_head, D, tile, v_tile, pitch, slabs, part)
        cuda.syncthreads()
        score_keys(tile, row * pitch, k_tile + lane * pitch, pitch, D, powers)
        for r in range(ROWS_A_WARP):
            is_seen = first_key + lane <= first + row + r
            score = powers[r] * scale if is_seen else MINUS_INFINITY
            powers[r] = merge(score, r, tops, sums, mixed)
        mix(tile, v_tile, pitch, D, powers, mixed)
        cuda.syncthreads()  # nobody may overwrite the tiles while somebody still reads them

    for r in range(ROWS_A_WARP):
        inverse = inverse_or_one(warp_sum(sums[r]))
        for c in range(COLUMNS):
            d = lane + c * WARP
            if first + row + r < out.shape[0] and d < D:
                out[first + row + r, head, d] = ptx.from_float(out, mixed[r, c] * inverse)


# -- Steps ----------------------------------------------------------------------------------------


def _plan_separate(x: Any, wq: Any, wk: Any, wv: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    """Make q, k and v once each, by three products, and attend."""
    T, _, D = out.shape
    q, k, v = (empty((T, len(weight)), x.dtype, like=x) for weight in (wq, wk, wv))
    product, attention = gemm.LADDER.step("padded").plan, ATTENTION.step("padded").plan
    heads = (each.reshape(T, -1, D) for each in (q, k, v))
    return (
        *product(x=x, weight=wq, out=q),
        *product(x=x, weight=wk, out=k),
        *product(x=x, weight=wv, out=v),
        *attention(*heads, scale, None, out),
    )


def _plan_sketch(x: Any, wq: Any, wk: Any, wv: Any, scale: float, out: Any) -> tuple[Launch, ...]:
    T, H, D = out.shape
    pitch = D | 1
    args = (x, wq, wk, wv, np.int32(len(wq) // len(wk)), kernel_scale(scale), np.int32(pitch), out)
    shared_bytes = 4 * (3 * TILE * pitch + (TILE + D) * PITCH)
    grid = (math.ceil(T / TILE), H)
    return (Launch(attention_sketch, grid, (WARP, WARPS), args, shared_bytes),)


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    D, G, R, T, E = shape
    rng = np.random.default_rng(seed)
    # Weights of this size keep q, k and v about as large as x.
    wq, wk, wv = (
        (rng.standard_normal((rows, E), np.float32) / math.sqrt(E)).astype(dtype)
        for rows in (G * R * D, G * D, G * D)
    )
    return {
        "x": rng.standard_normal((T, E), np.float32).astype(dtype),
        "wq": wq,
        "wk": wk,
        "wv": wv,
        "scale": 1 / math.sqrt(D),
        "out": np.full((T, G * R, D), np.nan, dtype),
    }


def _expect(
    x: np.ndarray, wq: np.ndarray, wk: np.ndarray, wv: np.ndarray, scale: float, out: np.ndarray
) -> dict[str, np.ndarray]:
    T, _, D = out.shape
    exact = x.astype(np.float64)
    q, k, v = (
        reference.linear(exact, weight.astype(np.float64)).reshape(T, -1, D)
        for weight in (wq, wk, wv)
    )
    return {"out": reference.causal_attention(q, k, v, scale)}


def _fewest_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    D, G, R, T, E = shape
    weights = (G * R + 2 * G) * D * E
    return (T * E + weights + T * G * R * D) * itemsize


def _flops(shape: tuple[int, ...]) -> int:
    D, G, R, T, E = shape
    products = 2 * T * (G * R + 2 * G) * D * E
    return products + 2 * D * G * R * T * (T + 1)


LADDER = Ladder(
    name="attention_sketch",
    steps=(
        Step(
            "sketch",
            "Queries, keys and values made inside the attention kernel: again for each tile.",
            _plan_sketch,
            (attention_sketch,),
        ),
        Step(
            "separate",
            "Three matrix products, each number once, and then attention.",
            _plan_separate,
            (gemm.gemm_padded, attention_tile),
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=(16, 1, 2, 64, 64),
    axes="D G R T E",
    ceiling="compute",
    fewest_bytes=_fewest_bytes,
    flops=_flops,
)
