r"""Causal attention with grouped KV heads, from scores in memory to tiles over a paged cache.

.. math:: O = \mathrm{softmax}\left(\frac{Q K^T}{\sqrt D} + \text{mask}\right) V

q is [S, H, D], k and v are [T, G, D]: float32, float16 or bfloat16 in memory, and in registers
float32; but tensor cores take their operands as they are.
Query head h reads KV head h // R, with R = H/G. The S queries are the last S of T positions; one at
position p sees the keys at p - window < t <= p.

4 S T D H FLOPs, half of that when S = T, for (2 S H + 2 T G) D numbers: each number serves hundreds
of others, and arithmetic is the ceiling. Unless the scores go through memory, H S T of them:

=================  =======================  =======================  ============================
step               scores in memory         a key and a value are    a lane reads a key
                                            loaded once for
=================  =======================  =======================  ============================
``naive``          written twice, read 4 x  1 query and head         by itself, from memory
``online``         none                     1 query and head         by itself, from memory
``tile``           none                     32 pairs                 from one bank, with 31 others
``padded``         none                     32 pairs                 from a bank of its own
``register_tile``  none                     64 pairs                 16 bytes, for 8 scores each
``paged``          none                     64 pairs                 the same
``tensor``         none                     128 pairs                as part of a fragment
=================  =======================  =======================  ============================

What makes the fusion possible is the **online rule**. A softmax needs the largest score of its row
before it can sum up anything. So it seems that all scores must be kept. But what was summed
relative to a smaller maximum m is put right by one factor when a larger one comes:

::

    m_new = max(m, m_j)       l = l 2^(m - m_new) + l_j 2^(m_j - m_new)
                              O = O 2^(m - m_new) + O_j 2^(m_j - m_new)       at the end O / l

for the keys so far, (m, l, O), and the next few, (m_j, l_j, O_j). All steps but the first have it.

Sources: Vaswani et al., 2017; Ainslie et al., "GQA", 2023; Milakov and Gimelshein, 2018; Rabe and
Staats, "Self-attention does not need O(n^2) memory", 2021; Dao et al., "FlashAttention", 2022;
Kwon et al., SOSP 2023 (paged).
"""

import functools
import math
from typing import Any

import numpy as np

from llm_numba import reference
from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks
from llm_numba.kernels.attention_naive import (
    WARPS,
    attention_online,
    attention_scores,
    attention_values,
)
from llm_numba.kernels.attention_paged import (
    ELEMENT_COLUMNS,
    check_groups,
    check_queries,
    check_scale_and_window,
    kernel_scale,
    kernel_window,
    paged_attention,
    plan_paged,
)
from llm_numba.kernels.attention_places import describe_whole
from llm_numba.kernels.attention_register_tile import config_for, register_tile_kernel
from llm_numba.kernels.attention_tensor import tensor_config, tensor_kernel
from llm_numba.kernels.attention_tile import TILE, attention_tile, tile_bytes
from llm_numba.kernels.gemm_tensorcore_plans import DTYPES, TENSOR_CORES
from llm_numba.kernels.ladder import Ladder, Operands, Step
from llm_numba.kernels.reduce import WARP
from llm_numba.kernels.softmax import softmax_block
from llm_numba.runtime import Launch, empty, empty_like, launch_all, storage_dtype

__all__ = ["LADDER", "causal_attention", "paged_attention"]

_SOFTMAX_THREADS = 256
_PAGE = 16


def causal_attention(
    q: Any,
    k: Any,
    v: Any,
    scale: float,
    window: int | None = None,
    *,
    out: Any = None,
    step: str = "register_tile",
    stream: Any = None,
) -> Any:
    """Attend from each of the last S of T positions to itself and to those before it, on a device.

    Parameters
    ----------
    q : float32, float16 or bfloat16 [S, H, D]
        D is 1 to 256. The last steps load 16 bytes at a time if D is a multiple of 8, and
        elements if not. What tensor cores cannot multiply, the step before does.
    k, v : of the dtype of q [T, G, D]
        T >= S; G divides H.
    scale : float
        Usually 1/sqrt(D).
    window : int, optional
        How many positions a query sees, itself included; at least 1.
    out : of shape and dtype of q, optional
    step : str
        Of :data:`LADDER`. ``"naive"`` needs room for H S T float32.
    stream : optional
        By default the current one.

    Returns
    -------
    of shape and dtype of q
        `out`, or a new array.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device, or there is no such step.
    LaunchError
        If H is more than 65,535; of the naive step, also if S is.
    """
    checks.choice("step", step, [each.name for each in LADDER.steps])
    S, H, D = check_queries(q)
    same = {"dtype": storage_dtype(q), "like": q}
    checks.array("k", k, shape=(None, None, D), **same)
    check_groups("k", k.shape[1], H)
    checks.array("v", v, shape=k.shape, **same)
    if (T := len(k)) < S:
        raise KernelArgumentError(
            f"There are {S} queries and {T} keys.", "Each query needs the key of its own position."
        )
    scale, window = check_scale_and_window(scale, window)
    if out is None:
        out = empty_like(q)
    checks.array("out", out, shape=q.shape, **same)
    if q.size > 0:
        launch_all(LADDER.step(step).plan(q, k, v, scale, window, out), stream)
    return out


# -- Steps ----------------------------------------------------------------------------------------


def _plan_naive(
    q: Any, k: Any, v: Any, scale: float, window: int | None, out: Any
) -> tuple[Launch, ...]:
    S, H, D = q.shape
    T = len(k)
    scores = empty((H, S, T), np.float32, like=q)
    rows = scores.reshape(H * S, T)
    no_mask = empty((0, T), np.bool_, like=q)
    window = kernel_window(window)
    grid = (math.ceil(T / _SOFTMAX_THREADS), S, H)
    args = (q, k, np.float32(scale), window, scores)
    return (
        Launch(attention_scores, grid, (_SOFTMAX_THREADS,), args),
        Launch(
            softmax_block, (H * S,), (_SOFTMAX_THREADS,), (rows, no_mask, kernel_scale(1), rows)
        ),
        Launch(attention_values, (S, H), (D,), (scores, v, window, out)),
    )


def _plan_online(
    q: Any, k: Any, v: Any, scale: float, window: int | None, out: Any
) -> tuple[Launch, ...]:
    grid = (math.ceil(q.shape[0] / WARPS), q.shape[1])
    args = (q, k, v, kernel_scale(scale), kernel_window(window), out)
    return (Launch(attention_online, grid, (WARP, WARPS), args),)


def _tiled(pitch_of: Any) -> Any:
    def plan(
        q: Any, k: Any, v: Any, scale: float, window: int | None, out: Any
    ) -> tuple[Launch, ...]:
        (S, H, D), G = q.shape, k.shape[1]
        pitch = pitch_of(D)
        grid = (math.ceil(S * H // G / TILE), G)
        args = (q, k, v, kernel_scale(scale), kernel_window(window), np.int32(pitch), out)
        return (Launch(attention_tile, grid, (WARP, WARPS), args, tile_bytes(pitch)),)

    return plan


def _plan_register_tile(
    q: Any, k: Any, v: Any, scale: float, window: int | None, out: Any
) -> tuple[Launch, ...]:
    tables = empty((1, 0), np.int32, like=q)
    starts, lengths = empty((0,), np.int32, like=q), empty((1,), np.int32, like=q)
    return plan_paged(q, k[None], v[None], tables, starts, lengths, scale, window, out, paged=False)


def _plan_paged(
    q: Any, k: Any, v: Any, scale: float, window: int | None, out: Any, tensor: bool = False
) -> tuple[Launch, ...]:
    """Describe the sequence as a batch of one, on the device, and run what the engine runs."""
    T, G, D = k.shape
    page = math.gcd(T, _PAGE)
    tables = empty((1, T // page), np.int32, like=q)
    starts, lengths = empty((2,), np.int32, like=q), empty((1,), np.int32, like=q)
    caches = (each.reshape(-1, page, G, D) for each in (k, v))
    grid = (math.ceil(T // page / _SOFTMAX_THREADS),)
    args = (tables, starts, lengths, np.int32(len(q)), np.int32(T))
    return (
        Launch(describe_whole, grid, (_SOFTMAX_THREADS,), args),
        *plan_paged(q, *caches, tables, starts, lengths, scale, window, out, tensor=tensor),
    )


# -- The ladder -----------------------------------------------------------------------------------


def _operands(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> Operands:
    D, G, R, S, T = shape
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.standard_normal(each).astype(dtype) for each in ((S, G * R, D), (T, G, D), (T, G, D))
    )
    return {
        "q": q,
        "k": k,
        "v": v,
        "scale": 1 / math.sqrt(D),
        "window": None,
        "out": np.full_like(q, np.nan),
    }


def _expect(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int | None, out: np.ndarray
) -> dict[str, np.ndarray]:
    exact = (array.astype(np.float64) for array in (q, k, v))
    return {"out": reference.causal_attention(*exact, scale, window)}


def _fewest_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    D, G, R, S, T = shape
    return (2 * S * G * R + 2 * T * G) * D * itemsize


def _flops(shape: tuple[int, ...]) -> int:
    D, G, R, S, T = shape
    return 4 * D * G * R * (S * T - S * (S - 1) // 2)


_EXAMPLE = (32, 2, 2, 32, 64)


def _engine_kernels(paged: bool) -> tuple[Any, ...]:
    """Return the kernels of the last steps for the example: whole packets, and elements."""
    D = _EXAMPLE[0]
    return (
        register_tile_kernel(D, config_for(D), True, paged),
        register_tile_kernel(ELEMENT_COLUMNS, config_for(ELEMENT_COLUMNS), False, paged),
    )


def _tensor_kernels() -> tuple[Any, ...]:
    """Return the kernels of the last step for the example, and what runs at an obstacle."""
    D = _EXAMPLE[0]
    made = (tensor_kernel(storage, D, tensor_config(D), True) for storage in DTYPES)
    return (*made, *_engine_kernels(paged=True))


LADDER = Ladder(
    name="attention",
    steps=(
        Step(
            "naive",
            "Three kernels, as the formula reads: all scores go through memory.",
            _plan_naive,
            (attention_scores, softmax_block, attention_values),
        ),
        Step(
            "online",
            "A warp a query, 32 keys at a time by the online rule: no score in memory.",
            _plan_online,
            (attention_online,),
        ),
        Step(
            "tile",
            "Keys and values in shared memory, for 32 rows: loaded once where it was 32 times.",
            _tiled(lambda D: D),
            (attention_tile,),
        ),
        Step(
            "padded",
            "Rows of an odd number of words: the keys of a warp lie in different banks.",
            _tiled(lambda D: D | 1),
            (attention_tile,),
        ),
        Step(
            "register_tile",
            "32 scores and 64 outputs a thread, 16 bytes a load, the next tile on its way.",
            _plan_register_tile,
            _engine_kernels(paged=False),
            (8, 0),
        ),
        Step(
            "paged",
            "Keys and values in blocks anywhere, many sequences at once: what an engine has.",
            _plan_paged,
            (describe_whole, *_engine_kernels(paged=True)),
            (8, 0),
        ),
        Step(
            "tensor",
            "Both products on tensor cores: the scores of one become an operand of the other.",
            functools.partial(_plan_paged, tensor=True),
            (describe_whole, *_tensor_kernels()),
            TENSOR_CORES,
        ),
    ),
    operands=_operands,
    expect=_expect,
    dtypes=("float32", "float16", "bfloat16"),
    example=_EXAMPLE,
    axes="D G R S T",
    ceiling="compute",
    fewest_bytes=_fewest_bytes,
    flops=_flops,
)
