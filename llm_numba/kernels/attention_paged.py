"""What the engine calls for attention over a paged cache, for any mixture of prompts and decodes.

A batch is described by arrays on the device, and nothing of them is read on the host: the grid
follows from shapes, so a CUDA graph may hold the launch and serve many batches.
"""

import math
from typing import Any

import numpy as np

from llm_numba.errors import KernelArgumentError
from llm_numba.kernels import checks, ptx
from llm_numba.kernels.attention_naive import MAX_HEAD_DIM
from llm_numba.kernels.attention_places import most_tiles
from llm_numba.kernels.attention_register_tile import (
    THREADS,
    config_for,
    register_tile_kernel,
    shared_bytes,
)
from llm_numba.kernels.attention_tensor import (
    obstacle,
    tensor_bytes,
    tensor_config,
    tensor_kernel,
)
from llm_numba.kernels.paged_decode import paged_decode_attention
from llm_numba.runtime import Launch, empty_like, launch_all, storage_dtype, tell

# Where rows are no packets, one kernel serves all D up to a multiple of this.
ELEMENT_COLUMNS = 64

LOG2_E = math.log2(math.e)
# More positions than any sequence has: p - NO_WINDOW is below 0.
NO_WINDOW = 2**30


def paged_attention(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_tables: Any,
    query_starts: Any,
    context_lens: Any,
    scale: float,
    window: int | None = None,
    *,
    batch_invariant: bool = False,
    step: str = "tensor",
    out: Any = None,
    arrived: Any = None,
    stream: Any = None,
) -> Any:
    """Attend from the new tokens of each sequence, however many, to its own paged context.

    If N = B every sequence has one query, and the kernels of
    :func:`~llm_numba.kernels.paged_decode.paged_decode_attention` take over: they split a context
    among blocks, where here one block walks all along it. The two sum in different orders.

    Parameters
    ----------
    q : float32, float16 or bfloat16 [N, H, D]
        The new tokens of all sequences, one sequence after the other. D is 1 to 256; multiples of
        8 are loaded 16 bytes at a time, and others by the element.
    k_cache, v_cache : of the dtype of q [num_blocks, block_size, G, D]
        G divides H. What no query sees may be anything, NaN as well.
    block_tables : int32 [B, W]
        Rows shorter than W are padded with anything.
    query_starts : int32 [B + 1]
        Sequence b owns rows ``query_starts[b]`` to ``query_starts[b + 1]`` of q: any number,
        none as well, but one each if N = B.
    context_lens : int32 [B]
        Keys of each sequence, its new tokens included.
    scale : float
        Usually 1/sqrt(D).
    window : int, optional
        How many positions a query sees, itself included; at least 1.
    batch_invariant : bool
        Never hand over. What a token gets then depends on its own sequence alone, to the bit: not
        on the others, nor on how a prompt is cut into chunks.
    step : {"tensor", "paged"}
        Of the ladder. What tensor cores cannot multiply goes to the other.
    out : of shape and dtype of q, optional
        Rows that belong to no sequence are left as they are.
    arrived : int32 [n], optional
        Counters for those kernels, at least B * H, all zero; and zero again afterwards.
    stream : optional
        By default the current one.

    Returns
    -------
    of shape and dtype of q
        `out`, or a new array.

    Raises
    ------
    KernelArgumentError
        If an argument has another rank, dtype, shape, layout or device.
    """
    N, H, D = check_queries(q)
    same = {"dtype": storage_dtype(q), "like": q}
    checks.array("k_cache", k_cache, shape=(None, None, None, D), **same)
    checks.array("v_cache", v_cache, shape=k_cache.shape, **same)
    check_groups("k_cache", k_cache.shape[2], H)
    integers = {"dtype": "int32", "like": q}
    checks.array("context_lens", context_lens, ndim=1, **integers)
    B = len(context_lens)
    checks.array("query_starts", query_starts, shape=(B + 1,), **integers)
    checks.array("block_tables", block_tables, shape=(B, None), **integers)
    scale, window = check_scale_and_window(scale, window)
    checks.choice("step", step, ("paged", "tensor"))
    if out is None:
        out = empty_like(q)
    checks.array("out", out, shape=q.shape, **same)
    if q.size > 0 and N == B and not batch_invariant:
        paged_decode_attention(
            q, k_cache, v_cache, block_tables, context_lens, scale, window,
            out=out, arrived=arrived, stream=stream,
        )  # fmt: skip
    elif q.size > 0 and B > 0:
        if step == "tensor" and (problem := obstacle(q, k_cache, v_cache, out)):
            tell(
                ("attention", problem),
                f"Attention by ordinary units, not by tensor cores: {problem}",
            )
        launches = plan_paged(
            q, k_cache, v_cache, block_tables, query_starts, context_lens, scale, window, out,
            tensor=step == "tensor",
        )  # fmt: skip
        launch_all(launches, stream)
    return out


def plan_paged(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    block_tables: Any,
    query_starts: Any,
    context_lens: Any,
    scale: float,
    window: int | None,
    out: Any,
    paged: bool = True,
    tensor: bool = False,
) -> tuple[Launch, ...]:
    """Plan :func:`paged_attention` for checked arguments.

    If not `paged`, there is one sequence: q [S, H, D], and caches [1, T, G, D]. The three arrays
    that describe a batch are not read. If `tensor`, tensor cores multiply what they can.
    """
    (N, H, D), (_, block_size, G, _) = q.shape, k_cache.shape
    group, sequences = H // G, len(context_lens)
    if tensor and obstacle(q, k_cache, v_cache, out) is None:
        config = tensor_config(D)
        kernel = tensor_kernel(storage_dtype(q), D, config, paged)
        dynamic = tensor_bytes(D, config)
    else:
        packets = D % 8 == 0 and all(map(ptx.is_aligned16, (q, k_cache, v_cache, out)))
        columns = D if packets else math.ceil(D / ELEMENT_COLUMNS) * ELEMENT_COLUMNS
        config = config_for(columns)
        kernel = register_tile_kernel(columns, config, packets, paged)
        dynamic = shared_bytes(columns, config)
    args = (
        *(array.reshape(-1, D) for array in (q, k_cache, v_cache)),
        block_tables,
        query_starts,
        context_lens,
        np.int32(G),
        np.int32(group),
        np.int32(block_size),
        kernel_scale(scale),
        kernel_window(window),
        out.reshape(-1, D),
    )
    tiles = most_tiles(N, sequences, group, config.rows)
    return (Launch(kernel, (tiles * G,), (THREADS,), args, dynamic),)


def check_queries(q: Any) -> tuple[int, int, int]:
    """Check q [S, H, D], or raise KernelArgumentError; return its shape."""
    checks.array("q", q, ndim=3)
    if not 1 <= q.shape[2] <= MAX_HEAD_DIM:
        raise KernelArgumentError(
            f"Heads have D = {q.shape[2]} components.", f"Attention takes 1 to {MAX_HEAD_DIM}."
        )
    return q.shape


def check_groups(name: str, G: int, H: int) -> None:
    """Check that G KV heads serve H query heads, or raise KernelArgumentError."""
    if G == 0 or H % G:
        raise KernelArgumentError(
            f"Argument {name!r} has {G} KV heads for {H} query heads.",
            "Their number must divide that of the query heads.",
        )


def check_scale_and_window(scale: float, window: int | None) -> tuple[float, int | None]:
    """Check both, or raise KernelArgumentError; return them as Python's."""
    scale = checks.number("scale", scale, finite=True)
    return scale, None if window is None else checks.integer("window", window, at_least=1)


def kernel_window(window: int | None) -> np.int32:
    """Return a window as kernels take it: none is one that no sequence fills."""
    return np.int32(NO_WINDOW if window is None else min(window, NO_WINDOW))


def kernel_scale(scale: float) -> np.float32:
    """Return the scale for scores that become powers of two."""
    return np.float32(scale * LOG2_E)
